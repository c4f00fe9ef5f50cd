-- SPDX-License-Identifier: LGPL-2.1-only
--
-- Sets or unsets user properties on VDIs in one transaction, and skips datasets that are removed VDIs or do not exist.
-- The answer is the number of VDIs changed, and ZFS's errno if it refused one.
--
--   zfs program -j POOL set.lua NAME MARK set NUMBER PROPERTY VALUE ... DATASET...
--   zfs program -j POOL set.lua NAME MARK unset 1 PROPERTY - DATASET...
--
-- A VDI has the property NAME but not the property MARK. NUMBER is the number of pairs PROPERTY VALUE that follow.

local args = ...
local argv = args["argv"]
local name, mark, action, number = argv[1], argv[2], argv[3], tonumber(argv[4])

local function own(dataset, property)
    local value, source = zfs.get_prop(dataset, property)
    return (source == dataset or source == "$recvd") and value
end

-- A full pool refuses properties. All are checked before any is set, so that a text in several pieces is set whole.
local function change(phase, dataset)
    for pair = 5, 3 + 2 * number, 2 do
        local error
        if action == "set" then
            error = phase.set_prop(dataset, argv[pair], argv[pair + 1])
        else
            error = phase.inherit(dataset, argv[pair])
        end
        if error ~= 0 then
            return error
        end
    end
    return 0
end

local changed = 0
for index = 5 + 2 * number, #argv do
    local dataset = argv[index]
    if zfs.exists(dataset) and own(dataset, name) and not own(dataset, mark) then
        for _, phase in ipairs({zfs.check, zfs.sync}) do
            local error = change(phase, dataset)
            if error ~= 0 then
                return {changed = changed, error = error}
            end
        end
        changed = changed + 1
    end
end
return {changed = changed}
