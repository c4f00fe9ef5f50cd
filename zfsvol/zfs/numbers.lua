-- SPDX-License-Identifier: LGPL-2.1-only
--
-- What an SR uses of its pool, and properties of its root. Changes nothing; answers nothing if there is no such dataset.
--
--   zfs program -n -j POOL numbers.lua ROOT PROPERTY...
--
-- In bytes: used, available, and promised: what its thin disks may still grow by. Snapshots and removed disks do not
-- grow. compressratio: 100 times the ratio, of all data below the root. properties: those that are set, by name.

local argv = (...)["argv"]
local root = argv[1]

if not zfs.exists(root) then
    return {}
end

local promised, disks = 0, 0
for child in zfs.list.children(root) do
    if zfs.get_prop(child, "type") == "volume" and not zfs.get_prop(child, "zfsvol:removed") then
        disks = disks + 1
        local left = zfs.get_prop(child, "volsize") - zfs.get_prop(child, "referenced")
        if left > 0 and zfs.get_prop(child, "refreservation") == 0 and zfs.get_prop(child, "readonly") ~= "on" then
            promised = promised + left
        end
    end
end

local properties = {}
for index = 2, #argv do
    properties[argv[index]] = zfs.get_prop(root, argv[index])
end

return {
    used = zfs.get_prop(root, "used"),
    available = zfs.get_prop(root, "available"),
    compressratio = zfs.get_prop(root, "compressratio"),
    promised = promised,
    disks = disks,
    properties = properties,
}
