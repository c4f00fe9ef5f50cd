-- SPDX-License-Identifier: LGPL-2.1-only
--
-- Removes zvols of an SR, and what only they needed, in one transaction: all of it happens or nothing does.
--
--   zfs program -j POOL remove.lua ROOT NAME MARK DATE TEMPORARY remove UUID        a VDI
--   zfs program -j POOL remove.lua ROOT NAME MARK DATE TEMPORARY replace UUID       the same, for a revert
--   zfs program -j POOL remove.lua ROOT NAME MARK DATE TEMPORARY discard ZVOL       what is only half made
--   zfs program -j POOL remove.lua ROOT NAME MARK DATE TEMPORARY settle DATASET...  what was left: zvols and snapshots
--
-- UUID and ZVOL are names below ROOT, DATASETs are whole names. NAME is the property that a VDI has; MARK is the one
-- that makes it a removed one, DATE its value; TEMPORARY is the one that names the clone-on-boot temporary of a disk.
-- A removed zvol whose snapshots others were made from stays, rolled back to the newest of these, so that nothing but
-- what they share takes space. What a killed revert was to put in the place of a VDI goes with it: it would be taken
-- for the VDI; "replace" leaves it. The answer is a table:
--
--   busy      the zvol that is open: nothing was changed
--   foreign   snapshots that this driver has not made: nothing was changed
--   bookmarks that are newer than the newest snapshot, which forbids the roll back: nothing was changed
--   error     an errno of ZFS for the zvol `at`: nothing was changed
--   missing   there is no such VDI: nothing was changed
--   kept      zvols that are removed and needed, with the bytes of their reservations

local EBUSY, EEXIST = 16, 17
local HEX = "%x%x%x%x"
local UUID = HEX .. HEX .. "%-" .. HEX .. "%-" .. HEX .. "%-" .. HEX .. "%-" .. HEX .. HEX .. HEX

local args = ...
local argv = args["argv"]
local root, name, mark, date, temporary, action = argv[1], argv[2], argv[3], argv[4], argv[5], argv[6]
local graveyard = root .. "/.gone"

-- What is set on the dataset itself, or was when it was received from another pool; not on its parents.
local function own(dataset, property)
    local value, source = zfs.get_prop(dataset, property)
    if source == dataset or source == "$recvd" then
        return value
    end
end

-- The driver names each of its snapshots by the uuid of the VDI that it is made for.
local function ours(snapshot)
    return string.match(snapshot, "@" .. UUID .. "$") ~= nil
end

local function first(iterator)
    for item in iterator do
        return item
    end
end

-- The snapshots of a zvol that are of use to nobody go; true if one stays.
local function needed(zvol)
    for snapshot in zfs.list.snapshots(zvol) do
        if not ours(snapshot) or first(zfs.list.clones(snapshot)) or zfs.sync.destroy(snapshot) ~= 0 then
            return true
        end
    end
    return false
end

local function is_vdi(zvol)
    return zfs.exists(zvol) and zfs.get_prop(zvol, "type") == "volume" and own(zvol, name) and not own(zvol, mark)
end

local function is_removed(zvol)
    return string.sub(zvol, 1, #root + 1) == root .. "/" and own(zvol, mark) ~= nil
end

-- A removed zvol that is not needed goes, with the snapshot that it was made from if that was for it alone; then the
-- same for the zvol of that snapshot, and so on. `is_certain`: the first is removed, though a full pool may not have
-- taken the mark.
local function settle(zvol, is_certain)
    while is_certain or is_removed(zvol) do
        is_certain = false
        if needed(zvol) then
            zfs.sync.rollback(zvol)
            return
        end
        local origin = zfs.get_prop(zvol, "origin")
        if zfs.sync.destroy(zvol) ~= 0 then
            return
        end
        if not origin or not ours(origin) or first(zfs.list.clones(origin)) or zfs.sync.destroy(origin) ~= 0 then
            return
        end
        zvol = string.match(origin, "^(.*)@")
    end
end

-- Why the zvol cannot be removed now; nil if it can. ZFS itself would roll back one that is open, and refuse to
-- destroy one that has snapshots with the same number as one that is open; from here, it tells which.
local function obstacle(zvol)
    local foreign = {}
    for snapshot in zfs.list.snapshots(zvol) do
        if not ours(snapshot) then
            foreign[#foreign + 1] = snapshot
        end
    end
    if #foreign > 0 then
        return {foreign = foreign}
    end
    local error
    if first(zfs.list.snapshots(zvol)) then
        error = zfs.check.rollback(zvol)
        if error == 0 then
            error = zfs.check.set_prop(zvol, mark, date)
        end
    else
        error = zfs.check.destroy(zvol)
    end
    if error == EBUSY then
        return {busy = zvol}
    end
    if error == EEXIST then
        local bookmarks = {}
        for bookmark in zfs.list.bookmarks(zvol) do
            bookmarks[#bookmarks + 1] = bookmark
        end
        return {bookmarks = bookmarks}
    end
    if error ~= 0 then
        return {error = error, at = zvol}
    end
end

local function remove(zvol)
    local doomed = {zvol}
    local left = root .. "/.revert-" .. argv[7]
    if action == "remove" and zfs.exists(left) then
        doomed = {left, zvol}
    end
    local uuid = string.match(own(zvol, temporary) or "", '^%["[^"]*", "(' .. UUID .. ')"%]$')
    if uuid and root .. "/" .. uuid ~= zvol and is_vdi(root .. "/" .. uuid) then
        table.insert(doomed, 1, root .. "/" .. uuid)
    end
    for _, dataset in ipairs(doomed) do
        local found = obstacle(dataset)
        if found then
            return found
        end
    end
    local kept = {}
    for _, dataset in ipairs(doomed) do
        zfs.sync.set_prop(dataset, mark, date)
        settle(dataset, true)
    end
    for _, dataset in ipairs(doomed) do
        if zfs.exists(dataset) then
            kept[dataset] = zfs.get_prop(dataset, "refreservation")
        end
    end
    return {kept = kept}
end

local answer = {}
if action == "settle" then
    for index = 7, #argv do
        local dataset = argv[index]
        if zfs.exists(dataset) then
            local zvol = string.match(dataset, "^(.*)@")
            if zvol and ours(dataset) and not first(zfs.list.clones(dataset)) then
                zfs.sync.destroy(dataset)
            end
            settle(zvol or dataset)
        end
    end
else
    local zvol = root .. "/" .. argv[7]
    if is_vdi(zvol) or (action == "discard" and zfs.exists(zvol)) then
        answer = remove(zvol)
    else
        answer = {missing = zvol}
    end
end
-- Where it is empty, which the next one makes anew; ZFS refuses where it is not.
if zfs.exists(graveyard) then
    zfs.sync.destroy(graveyard)
end
return answer
