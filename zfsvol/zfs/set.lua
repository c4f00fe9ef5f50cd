-- SPDX-License-Identifier: LGPL-2.1-only
--
-- Sets and unsets user properties of VDIs in one transaction, and skips datasets that are removed VDIs or do not exist.
-- The answer is the number of VDIs changed, and ZFS's errno if it refused one.
--
--   zfs program -j POOL set.lua NAME MARK SETS UNSETS PROPERTY VALUE ... PROPERTY ... DATASET...
--
-- A VDI has the property NAME but not the property MARK. SETS is the number of pairs PROPERTY VALUE that follow; UNSETS
-- is the number of properties after them, which are unset.

local args = ...
local argv = args["argv"]
local name, mark, sets, unsets = argv[1], argv[2], tonumber(argv[3]), tonumber(argv[4])
local FIRST = 5
local FIRST_UNSET = FIRST + 2 * sets
local FIRST_DATASET = FIRST_UNSET + unsets

local function own(dataset, property)
    local value, source = zfs.get_prop(dataset, property)
    return (source == dataset or source == "$recvd") and value
end

-- A full pool refuses properties. All are checked before any is set, so that a text in several pieces is set whole.
local function change(phase, dataset)
    for index = FIRST, FIRST_UNSET - 1, 2 do
        local error = phase.set_prop(dataset, argv[index], argv[index + 1])
        if error ~= 0 then
            return error
        end
    end
    for index = FIRST_UNSET, FIRST_DATASET - 1 do
        local error = phase.inherit(dataset, argv[index])
        if error ~= 0 then
            return error
        end
    end
    return 0
end

local changed = 0
for index = FIRST_DATASET, #argv do
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
