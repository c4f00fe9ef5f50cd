# SPDX-License-Identifier: LGPL-2.1-only
"""What zpool of OpenZFS 2.1.11 and 2.3.2 printed in the lab: `status -P -p -s -t`, and `status -g -p` of the same."""

# raidz with a disk that is gone, a special mirror, a log.
MISSING_21 = """\
  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
\tfunctioning in a degraded state.
action: Replace the device using 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
  scan: scrub repaired 0B in 00:00:01 with 0 errors on Sun Nov 29 23:15:03 2026
  scan: resilvered (mirror-1) 2.28M in 00:00:00 with 0 errors on Sun Nov 29 23:15:02 2026
config:

\tNAME                     STATE     READ WRITE CKSUM  SLOW
\ttank                     DEGRADED     0     0     0     0
\t  raidz1-0               DEGRADED     0     0     0     0
\t    /dev/loop0           ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop6           ONLINE       0     0     0     0  (untrimmed)
\t    4285964352589653056  UNAVAIL      0     0     0     0  was /dev/loop2  (untrimmed)
\tspecial\t
\t  mirror-1               ONLINE       0     0     0     0
\t    /dev/loop3           ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop4           ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop7           ONLINE       0     0     0     0  (untrimmed)
\tlogs\t
\t  /dev/loop5             ONLINE       0     0     0     0  (untrimmed)

errors: No known data errors
"""

# The same by guids.
MISSING_21_GUIDS = """\
  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
\tfunctioning in a degraded state.
action: Replace the device using 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
  scan: scrub repaired 0B in 00:00:01 with 0 errors on Sun Nov 29 23:15:03 2026
  scan: resilvered (mirror-1) 2.28M in 00:00:00 with 0 errors on Sun Nov 29 23:15:02 2026
config:

\tNAME                      STATE     READ WRITE CKSUM
\ttank                      DEGRADED     0     0     0
\t  8766752476573202532     DEGRADED     0     0     0
\t    13749566487717314679  ONLINE       0     0     0
\t    16044198627119882488  ONLINE       0     0     0
\t    4285964352589653056   UNAVAIL      0     0     0  was /dev/loop2
\tspecial\t
\t  2005347813454940335     ONLINE       0     0     0
\t    7632764438394200610   ONLINE       0     0     0
\t    2735044822254651743   ONLINE       0     0     0
\t    12619215826277300316  ONLINE       0     0     0
\tlogs\t
\t  17533610407523897905    ONLINE       0     0     0

errors: No known data errors
"""

# The same by 2.3.
MISSING_23 = """\
  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
\tfunctioning in a degraded state.
action: Replace the device using 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
  scan: scrub repaired 0B in 00:00:00 with 0 errors on Sun Nov 29 23:15:27 2026
  scan: resilvered (mirror-1) 1.42M in 00:00:00 with 0 errors on Sun Nov 29 23:15:27 2026
config:

\tNAME                      STATE     READ WRITE CKSUM  SLOW
\ttank                      DEGRADED     0     0     0     0
\t  raidz1-0                DEGRADED     0     0     0     0
\t    /dev/loop0            ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop6            ONLINE       0     0     0     0  (untrimmed)
\t    10457812942549475309  UNAVAIL      0     0     0     0  was /dev/loop2  (untrimmed)
\tspecial\t
\t  mirror-1                ONLINE       0     0     0     0
\t    /dev/loop3            ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop4            ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop7            ONLINE       0     0     0     0  (untrimmed)
\tlogs\t
\t  /dev/loop5              ONLINE       0     0     0     0  (untrimmed)

errors: No known data errors
"""

# The same by guids.
MISSING_23_GUIDS = """\
  pool: tank
 state: DEGRADED
status: One or more devices could not be used because the label is missing or
\tinvalid.  Sufficient replicas exist for the pool to continue
\tfunctioning in a degraded state.
action: Replace the device using 'zpool replace'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-4J
  scan: scrub repaired 0B in 00:00:00 with 0 errors on Sun Nov 29 23:15:27 2026
  scan: resilvered (mirror-1) 1.42M in 00:00:00 with 0 errors on Sun Nov 29 23:15:27 2026
config:

\tNAME                      STATE     READ WRITE CKSUM
\ttank                      DEGRADED     0     0     0
\t  8984067554646467882     DEGRADED     0     0     0
\t    1699605984130442545   ONLINE       0     0     0
\t    16827115353897701657  ONLINE       0     0     0
\t    10457812942549475309  UNAVAIL      0     0     0  was /dev/loop2
\tspecial\t
\t  6146950853993051098     ONLINE       0     0     0
\t    15275425235844968114  ONLINE       0     0     0
\t    17831305378908609802  ONLINE       0     0     0
\t    11301416228856980590  ONLINE       0     0     0
\tlogs\t
\t  11727360766175460267    ONLINE       0     0     0

errors: No known data errors
"""

# A spare stands in for a failed half of a mirror.
SPARE_21 = """\
  pool: tank
 state: DEGRADED
status: One or more devices are faulted in response to persistent errors.
\tSufficient replicas exist for the pool to continue functioning in a
\tdegraded state.
action: Replace the faulted device, or use 'zpool clear' to mark the device
\trepaired.
  scan: resilvered 62.6M in 00:00:00 with 0 errors on Sun Nov 29 22:56:08 2026
config:

\tNAME              STATE     READ WRITE CKSUM  SLOW
\ttank              DEGRADED     0     0     0     0
\t  mirror-0        DEGRADED     0     0     0     0
\t    /dev/dm-0     ONLINE       0     0     0     0  (100% trimmed, completed at Sun Nov 29 22:56:03 2026)
\t    spare-1       DEGRADED     0     0     0     0
\t      /dev/dm-1   FAULTED      3     0     0     0  too many errors  (100% trimmed, completed at Sun Nov 29 22:56:03 2026)
\t      /dev/loop4  ONLINE       0     0     0     0  (untrimmed)
\tlogs\t
\t  /dev/loop2      ONLINE       0     0     0     0  (100% trimmed, completed at Sun Nov 29 22:56:03 2026)
\tcache
\t  /dev/loop3      ONLINE       0     0     0     0  (untrimmed)
\tspares
\t  /dev/loop4      INUSE     currently in use  (untrimmed)

errors: No known data errors
"""  # noqa: E501

# The same by guids.
SPARE_21_GUIDS = """\
  pool: tank
 state: DEGRADED
status: One or more devices are faulted in response to persistent errors.
\tSufficient replicas exist for the pool to continue functioning in a
\tdegraded state.
action: Replace the faulted device, or use 'zpool clear' to mark the device
\trepaired.
  scan: resilvered 62.6M in 00:00:00 with 0 errors on Sun Nov 29 22:56:08 2026
config:

\tNAME                       STATE     READ WRITE CKSUM
\ttank                       DEGRADED     0     0     0
\t  13391162295498166080     DEGRADED     0     0     0
\t    10825578877170377748   ONLINE       0     0     0
\t    13784179469024627248   DEGRADED     0     0     0
\t      6323518945290995221  FAULTED      3     0     0  too many errors
\t      3929461537603982759  ONLINE       0     0     0
\tlogs\t
\t  9360275209094494063      ONLINE       0     0     0
\tcache
\t  16985463660112061907     ONLINE       0     0     0
\tspares
\t  3929461537603982759      INUSE     currently in use

errors: No known data errors
"""

# A disk is being removed.
REMOVAL_23 = """\
  pool: tank
 state: ONLINE
remove: Evacuation of /dev/loop0 in progress since Sun Nov 29 22:57:35 2026
\t44K copied out of 19.1M at 44K/s, 0.23% done, 0h7m to go
config:

\tNAME          STATE     READ WRITE CKSUM  SLOW
\ttank          ONLINE       0     0     0     0
\t  /dev/loop0  ONLINE       0     0     0     0  (removing)  (untrimmed)
\t  /dev/loop8  ONLINE       0     0     0     0  (untrimmed)

errors: No known data errors
"""

# A new half of a mirror is being rebuilt in sequence.
REBUILD_23 = """\
  pool: tank
 state: ONLINE
status: One or more devices is currently being resilvered.  The pool will
\tcontinue to function, possibly in a degraded state.
action: Wait for the resilver to complete.
  scan: resilver (mirror-1) in progress since Sun Nov 29 23:15:26 2026
\t1.42M / 1.42M scanned at 59.1M/s, 1.42M / 1.42M issued at 59.1M/s
\t1.42M resilvered, 100.00% done, 00:00:00 to go
config:

\tNAME            STATE     READ WRITE CKSUM  SLOW
\ttank            ONLINE       0     0     0     0
\t  raidz1-0      ONLINE       0     0     0     0
\t    /dev/loop0  ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop6  ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop2  ONLINE       0     0     0     0  (untrimmed)
\tspecial\t
\t  mirror-1      ONLINE       0     0     0     0
\t    /dev/loop3  ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop4  ONLINE       0     0     0     0  (untrimmed)
\t    /dev/loop7  ONLINE       0     0     0     0  (resilvering)  (untrimmed)
\tlogs\t
\t  /dev/loop5    ONLINE       0     0     0     0  (untrimmed)

errors: No known data errors
"""
