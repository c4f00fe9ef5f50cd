-- SPDX-License-Identifier: LGPL-2.1-only
--
-- Removes zvols of an SR, and what only they needed, in one transaction: all or nothing.
--
--   zfs program -j POOL remove.lua ROOT NAME MARK DATE TEMPORARY BASE ACTION...
--
--     remove UUID              a VDI
--     replace UUID [BOOKMARK]  the same, while another zvol is to take its place
--     discard ZVOL             what is only half made
--     prune DATASET...         what was left: zvols and snapshots
--     open                     what is open; changes nothing
--
-- UUID and ZVOL are names below ROOT; DATASETs are whole names. Every VDI has the property NAME. The property MARK,
-- with the value DATE, marks a removed one. The property TEMPORARY names a disk's clone-on-boot temporary. The property
-- BASE of a snapshot without data says which bookmark is its own. With BOOKMARK, the name of a new bookmark without its
-- zvol's, the ZFS snapshot that the VDI was made from is bookmarked first.
--
-- A removed zvol stays while clones need its snapshots, or while it has held snapshots or snapshots of other programs
-- and people. It is rolled back to its newest snapshot, so that only what they need takes space. "remove" also removes
-- the zvol that a killed revert made to replace the VDI, since it would be taken for the VDI; "replace" leaves it. The
-- answer is a table:
--
--   busy      the open zvol; nothing was changed
--   bookmarks a zvol with bookmarks newer than its newest snapshot, which prevent the rollback; nothing was changed
--   error     ZFS's errno for the zvol `at`; nothing was changed
--   missing   there is no such VDI; nothing was changed
--   kept      the removed zvols that stay, with their reservations in bytes
--   foreign   those of them that have snapshots or holds of other programs or people
--   stuck     those of them that such bookmarks kept from being rolled back; "prune" answers this, too
--   bases     the properties BASE of the VDIs removed
--   open      the zvols and snapshots below ROOT that something has open

local EAGAIN, EBUSY, EEXIST = 11, 16, 17
local HEX = "%x%x%x%x"
local UUID = HEX .. HEX .. "%-" .. HEX .. "%-" .. HEX .. "%-" .. HEX .. "%-" .. HEX .. HEX .. HEX

local args = ...
local argv = args["argv"]
local root, name, mark, date, temporary, base, action = argv[1], argv[2], argv[3], argv[4], argv[5], argv[6], argv[7]
local FIRST = 8

-- The property's value if it is set on the dataset itself or was received with it; not if it is inherited.
local function own(dataset, property)
    local value, source = zfs.get_prop(dataset, property)
    if source == dataset or source == "$recvd" then
        return value
    end
end

-- The driver names each of its snapshots by the uuid of the VDI that it was made for.
local function ours(snapshot)
    return string.match(snapshot, "@" .. UUID .. "$") ~= nil
end

local function first(iterator)
    for item in iterator do
        return item
    end
end

-- Destroys the zvol's snapshots that nobody needs; true if one stays.
local function needed(zvol)
    local found = false
    for snapshot in zfs.list.snapshots(zvol) do
        if not ours(snapshot) or first(zfs.list.clones(snapshot)) or zfs.sync.destroy(snapshot) ~= 0 then
            found = true
        end
    end
    return found
end

-- Whether others keep the zvol: they have snapshots of it, or hold one of the driver's.
local function has_foreign(zvol)
    for snapshot in zfs.list.snapshots(zvol) do
        if not ours(snapshot) or not first(zfs.list.clones(snapshot)) then
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

-- Destroys a removed zvol that nobody needs, and the snapshot that it was made from if only it needed that. Repeats
-- this for the zvol of that snapshot, and so on. `is_certain`: the first zvol counts as removed, even if a full pool
-- refused the mark. Returns a zvol that could not be rolled back because of bookmarks.
local function prune(zvol, is_certain)
    while is_certain or is_removed(zvol) do
        is_certain = false
        if needed(zvol) then
            return zfs.sync.rollback(zvol) == EEXIST and zvol or nil
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

-- Why the zvol cannot be removed now; nil if it can. ZFS would roll back an open zvol without a check, and it refuses
-- to destroy a zvol with snapshots by the same errno as an open one; these checks tell the two apart. ZFS does not roll
-- back to a snapshot of the current transaction group (EAGAIN): the next group allows it.
local function obstacle(zvol)
    local error
    if first(zfs.list.snapshots(zvol)) then
        error = zfs.check.rollback(zvol)
        if error == 0 then
            error = zfs.check.set_prop(zvol, mark, date)
        end
    else
        error = zfs.check.destroy(zvol)
    end
    if error == EBUSY or error == EAGAIN then
        return {busy = zvol}
    end
    if error == EEXIST then
        return {bookmarks = zvol}
    end
    if error ~= 0 then
        return {error = error, at = zvol}
    end
end

local function remove(zvol, bookmark)
    local doomed = {zvol}
    local left = root .. "/.revert-" .. argv[FIRST]
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
    local origin = bookmark and zfs.get_prop(zvol, "origin")
    if origin then
        bookmark = string.match(origin, "^(.*)@") .. "#" .. bookmark
        local error = zfs.check.bookmark(origin, bookmark)
        if error ~= 0 then
            return {error = error, at = bookmark}
        end
        zfs.sync.bookmark(origin, bookmark)
    end
    local kept, foreign, stuck, bases = {}, {}, {}, {}
    for _, dataset in ipairs(doomed) do
        bases[#bases + 1] = own(dataset, base)
        zfs.sync.set_prop(dataset, mark, date)
        stuck[#stuck + 1] = prune(dataset, true)
    end
    for _, dataset in ipairs(doomed) do
        if zfs.exists(dataset) then
            kept[dataset] = zfs.get_prop(dataset, "refreservation")
            if has_foreign(dataset) then
                foreign[#foreign + 1] = dataset
            end
        end
    end
    return {kept = kept, foreign = foreign, stuck = stuck, bases = bases}
end

local function is_open(dataset, check)
    return check(dataset) == EBUSY and not first(zfs.list.holds(dataset))
end

-- Adds the open zvols and snapshots among the dataset and all below it.
local function add_open(found, dataset)
    if zfs.get_prop(dataset, "type") == "volume" then
        local snapshots = {}
        for snapshot in zfs.list.snapshots(dataset) do
            snapshots[#snapshots + 1] = snapshot
            if is_open(snapshot, zfs.check.destroy) then
                found[#found + 1] = snapshot
            end
        end
        if (#snapshots > 0 and zfs.check.rollback or zfs.check.destroy)(dataset) == EBUSY then
            found[#found + 1] = dataset
        end
    end
    for child in zfs.list.children(dataset) do
        add_open(found, child)
    end
end

local answer = {}
if action == "open" then
    answer = {open = {}}
    add_open(answer.open, root)
    return answer
elseif action == "prune" then
    answer = {stuck = {}}
    for index = FIRST, #argv do
        local dataset = argv[index]
        if zfs.exists(dataset) then
            local zvol = string.match(dataset, "^(.*)@")
            if zvol and ours(dataset) and not first(zfs.list.clones(dataset)) then
                zfs.sync.destroy(dataset)
            end
            answer.stuck[#answer.stuck + 1] = prune(zvol or dataset)
        end
    end
else
    local zvol = root .. "/" .. argv[FIRST]
    if is_vdi(zvol) or (action == "discard" and zfs.exists(zvol)) then
        answer = remove(zvol, argv[FIRST + 1])
    else
        answer = {missing = zvol}
    end
end
return answer
