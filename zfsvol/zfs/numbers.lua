-- SPDX-License-Identifier: LGPL-2.1-only
-- What an SR uses of its pool, in bytes. Changes nothing. Argument: the root dataset of the SR.
-- Answer: used, available, logicalused (what the data would take without compression), compressratio (100 times the
-- ratio, of all data below the root, snapshots included), and promised: the sum of the sizes of all zvols but removed
-- disks. Nothing if there is no such dataset.

local root = (...)["argv"][1]

local function number(dataset, property)
    return zfs.get_prop(dataset, property) or 0
end

if not zfs.exists(root) then
    return {}
end
local promised, disks = 0, 0
for child in zfs.list.children(root) do
    if zfs.get_prop(child, "type") == "volume" and not zfs.get_prop(child, "zfsvol:removed") then
        promised = promised + number(child, "volsize")
        disks = disks + 1
    end
end
return {
    used = number(root, "used"),
    available = number(root, "available"),
    logicalused = number(root, "logicalused"),
    compressratio = number(root, "compressratio"),
    promised = promised,
    disks = disks,
}
