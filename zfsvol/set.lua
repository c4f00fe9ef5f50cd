-- SPDX-License-Identifier: LGPL-2.1-only
--
-- Sets one user property on many datasets in one transaction; those that are not there are passed over.
--
--   zfs program -j POOL set.lua PROPERTY VALUE DATASET...

local args = ...
local argv = args["argv"]
for index = 3, #argv do
    if zfs.exists(argv[index]) then
        zfs.sync.set_prop(argv[index], argv[1], argv[2])
    end
end
