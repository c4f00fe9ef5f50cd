# SPDX-License-Identifier: LGPL-2.1-only
"""The wire format of NBD: numbers and layouts of messages. All numbers are big-endian.

The names of the specification (doc/proto.md of NetworkBlockDevice/nbd) stand beside those that differ from them. Only
what the driver uses is here: the fixed newstyle handshake of a client, the oldstyle one of a server, simple replies.
"""

import struct

# The server's greeting: MAGIC, STYLE, its flags.
GREETING = struct.Struct(">QQH")
MAGIC = 0x4E42444D41474943  # NBDMAGIC
STYLE = 0x49484156454F5054  # IHAVEOPT
# Flags of the greeting, and of the client's answer to it.
FIXED_NEWSTYLE = 1
NO_ZEROES = 2
CLIENT_FLAGS = struct.Struct(">I")

# The whole handshake of the old style: MAGIC, OLD_STYLE, size in bytes, flags of the export.
OLD_GREETING = struct.Struct(">QQQI124x")
OLD_STYLE = 0x00420281861253

# The client's options: STYLE, option, length of the data that follow.
OPTION = struct.Struct(">QII")
OPT_EXPORT_NAME = 1
OPT_GO = 7
# The data of OPT_GO: length of the export's name, the name, how many INFO_ are asked for, these.
NAME_LENGTH = struct.Struct(">I")
ONE_INFO = struct.Struct(">HH")

# The answer to OPT_EXPORT_NAME: size in bytes, flags of the export; then zeroes, unless both sides have NO_ZEROES.
EXPORT = struct.Struct(">QH")
EXPORT_ZEROES = 124

# The answers to other options: OPTION_REPLY_MAGIC, option, kind of answer, length of the data that follow.
OPTION_REPLY = struct.Struct(">QIII")
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REP_ACK = 1
REP_INFO = 3
REP_ERROR = 1 << 31  # the bit of all errors; a text may follow
REP_ERR_UNSUP = REP_ERROR + 1
REP_ERR_POLICY = REP_ERROR + 2
REP_ERR_TLS_REQD = REP_ERROR + 5
REP_ERR_UNKNOWN = REP_ERROR + 6
REP_ERR_SHUTDOWN = REP_ERROR + 7

# The data of REP_INFO begin with their kind.
INFO_KIND = struct.Struct(">H")
INFO_EXPORT = 0
INFO_BLOCK_SIZE = 3
# In bytes: the least that a request must be a multiple of, what the server prefers, the most in one request.
BLOCK_SIZES = struct.Struct(">III")

# Flags of an export (NBD_FLAG_).
HAS_FLAGS = 1
READ_ONLY = 1 << 1
SEND_FLUSH = 1 << 2
SEND_WRITE_ZEROES = 1 << 6

# A request: REQUEST_MAGIC, flags, command, handle, offset, length; the data of CMD_WRITE follow.
REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC = 0x25609513
CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_WRITE_ZEROES = 6

# A simple reply: REPLY_MAGIC, error (0, or a number of Linux's errno), the handle of the request.
REPLY = struct.Struct(">IIQ")
REPLY_MAGIC = 0x67446698
