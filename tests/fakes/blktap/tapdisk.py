# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for blktap's tapdisk. The stand-in for tap-ctl, beside this file, forks the process that runs it.

That file lists the differences from the genuine one.
"""

import _signal
import _socket
import ctypes
import errno
import fcntl
import os
import stat
import time

CONTROL = "/run/blktap-control"
MARKERS = CONTROL + "/tapdisk"
SHARED_MEMORY = "/dev/shm"
OWN = "/run/fake-blktap"
BACKLOG = 32
CLOSED = 0x2

# Seconds.
INITIALISING = 0.05
EXITING = 0.07
REQUEST_LIMIT = 2
SERVER_LIMIT = 20
SERVER_POLL = 0.005

# From linux/prctl.h, asm/unistd_64.h and OpenZFS' sys/fs/zfs.h.
PR_SET_PDEATHSIG = 1
PIDFD_OPEN, PIDFD_GETFD = 434, 438
BLKZNAME = (2 << 30) | (256 << 16) | (0x12 << 8) | 125

libc = ctypes.CDLL(None, use_errno=True)


def unlink(*paths):
    """Removes files that may be gone already."""
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def bind(path):
    """A new Unix socket of this name."""
    unlink(path)
    made = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    made.bind(path)
    return made


class NbdServer:
    """A qemu-nbd that serves an open device."""

    def __init__(self, path, name, device, *, readonly):
        self.path = path
        mode = os.fstat(device).st_mode
        driver = "host_device" if stat.S_ISBLK(mode) else "file"
        direct = "on" if fcntl.fcntl(device, fcntl.F_GETFL) & os.O_DIRECT else "off"
        options = {
            "driver": "raw",
            "file.driver": driver,
            "file.filename": name.replace(",", ",,"),
            "file.locking": "off",
            "file.cache.direct": direct,
            "file.cache.no-flush": "on",
        }
        image = ",".join("{}={}".format(*option) for option in options.items())
        argv = ["qemu-nbd", "-t", "-e", "0", "-k", path, "-x", export_name(device, name)]
        argv += [*(["-r"] if readonly else []), "--image-opts", image]
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                become(argv, parent)
            finally:
                os._exit(127)

    def wait_until_ready(self):
        """Whether it serves; it does once it has the device open."""
        end = time.monotonic() + SERVER_LIMIT
        while time.monotonic() < end:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = 0
                return False
            client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                client.settimeout(1)
                client.connect(self.path)
                if client.recv(8) == b"NBDMAGIC":
                    return True
            except OSError:
                pass
            finally:
                client.close()
            time.sleep(SERVER_POLL)
        return False

    def clients(self):
        """Duplicates of its client connections, as descriptors of this process."""
        process = libc.syscall(PIDFD_OPEN, self.pid, 0)
        found = []
        directory = f"/proc/{self.pid}/fd"
        for name in os.listdir(directory):
            if os.readlink(f"{directory}/{name}").startswith("socket:"):
                copy = _socket.socket(fileno=libc.syscall(PIDFD_GETFD, process, int(name), 0))
                if not copy.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
                    found.append(copy)
        os.close(process)
        return found

    def end(self):
        """Kills it."""
        if self.pid:
            os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)


def become(argv, parent):
    """In the child: executes this program, and makes it end with its parent."""
    libc.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
    if os.getppid() != parent:
        return
    with open("/proc/self/comm", "w") as file:
        file.write("qemu-nbd")
    null = os.open("/dev/null", os.O_RDWR)
    said = os.open(OWN + "/qemu-nbd.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target, descriptor in enumerate((null, null, said)):
        os.dup2(descriptor, target)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of listdir
    os.execvp(argv[0], argv)  # noqa: S606 - no shell


def export_name(device, path):
    """The zvol's own name, or the file's."""
    try:
        path = fcntl.ioctl(device, BLKZNAME, bytes(256)).split(b"\0")[0].decode()
    except OSError:
        pass
    return os.path.basename(path)


class Image:
    """A minor that the process has attached, and the device open there."""

    def __init__(self, minor, marker):
        self.minor = minor
        self.marker = marker
        self.state = 0
        self.name = ""
        self.device = -1
        self.server = None


class Tapdisk:
    """The process. It serves one request at a time."""

    def __init__(self):
        self.pid = os.getpid()
        self.images = {}
        self.kept = []  # connections of clients whose image was closed
        self.waiting = []  # (connection, words) of requests that wait for another request
        self.end = None  # when, on the monotonic clock
        os.makedirs(CONTROL, exist_ok=True)
        self.statistics = f"{SHARED_MEMORY}/td3-{self.pid}"
        os.makedirs(self.statistics, exist_ok=True)
        self.own = [f"{CONTROL}/ctl{self.pid}", f"{CONTROL}/nbdclient{self.pid}"]
        self.deaf = bind(self.own[1])
        self.listener = bind(self.own[0])
        self.listener.listen(BACKLOG)

    def serve(self):
        """Serves requests until the last image is detached, and then as long as a test wants."""
        while self.end is None or self.end > time.monotonic():
            try:
                self.listener.settimeout(self.end and max(self.end - time.monotonic(), 0.001))
                connection = _socket.socket(fileno=self.listener._accept()[0])
            except _socket.timeout:
                break
            try:
                connection.settimeout(REQUEST_LIMIT)
                words = receive(connection)
            except OSError:
                connection.close()
                continue
            if words[0] == "close" and words[2] == "1":
                self.waiting.append((connection, words))
                continue
            self.answer(connection, words)
            if words[0] == "list":
                waiting, self.waiting = self.waiting, []
                for other in waiting:
                    self.answer(*other)

    def answer(self, connection, words):
        """Carries out a request and answers with the result."""
        try:
            status, text = getattr(self, "do_" + words[0])(*words[1:])
        except OSError as error:
            status, text = error.errno, ""
        except Exception:
            report()
            status, text = errno.EIO, ""
        try:
            connection.sendall(f"{status}\n{text}".encode())
        except OSError:
            pass  # the client is gone
        connection.close()

    def do_list(self):
        rows = (f"{image.minor} {image.state} {image.name}" for image in self.images.values())
        return 0, "\n".join(row.rstrip() for row in rows)

    def do_attach(self, minor):
        if minor in self.images:
            return errno.EEXIST, ""
        marker = os.open(f"{MARKERS}/tapdisk-{minor}", os.O_RDONLY)
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(marker)
            raise
        self.images[minor] = Image(minor, marker)
        return 0, ""

    def do_detach(self, minor, lingers):
        image = self.images.get(minor)
        if image is None:
            return errno.ENODEV, ""
        if image.name:
            return errno.EBUSY, ""
        os.close(image.marker)
        del self.images[minor]
        if not self.images:
            self.end = time.monotonic() + float(lingers)
        return 0, ""

    def do_open(self, minor, name, readonly):
        image = self.images.get(minor)
        if image is None:
            return errno.EINVAL, ""
        if image.name:
            return errno.EALREADY, ""
        kind, _, path = name.partition(":")
        if kind != "aio":
            return errno.EINVAL, ""
        image.device = open_device(path, os.O_RDONLY if readonly == "1" else os.O_RDWR)
        for kind in ("nbd-old", "nbdserver", "nbdserver-new"):
            bind(self.socket(kind, image)).close()
        with open(f"{self.statistics}/vbd-{minor}", "w"):
            pass
        image.server = NbdServer(self.socket("nbd", image), path, image.device, readonly=readonly == "1")
        image.name = name
        image.state = 0
        if not image.server.wait_until_ready():
            self.do_close(minor, "0")
            return errno.EIO, ""
        return 0, ""

    def do_close(self, minor, _waits):
        image = self.images.get(minor)
        if image is None:
            return errno.ENODEV, ""
        if image.name:
            if image.server.pid:
                self.kept += image.server.clients()
            image.server.end()
            os.close(image.device)
            image.name = ""
            unlink(*(self.socket(kind, image) for kind in ("nbd", "nbd-old", "nbdserver", "nbdserver-new")))
            unlink(f"{self.statistics}/vbd-{minor}")
        image.state = CLOSED
        return 0, ""

    def socket(self, kind, image):
        """The path of one of an image's sockets."""
        return f"{CONTROL}/{kind}{self.pid}.{image.minor}"


def receive(connection):
    """The words of a request."""
    request = b""
    while True:
        part = connection.recv(65536)
        if not part:
            return request.decode().split("\0")
        request += part


def open_device(path, access):
    """A descriptor, past the page cache if the file system can."""
    try:
        return os.open(path, access | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, access)


def report():
    """Reports a bug in this stand-in."""
    import traceback  # takes as long as all of the start

    with open(OWN + "/tapdisk.log", "a") as file:
        traceback.print_exc(file=file)


def run(fault):
    """The life of the process, which does not return."""
    os.makedirs(OWN, exist_ok=True)
    try:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        time.sleep(INITIALISING)
        if fault.get("dies"):
            os._exit(1)
        time.sleep(fault.get("late", 0))
        live()
        os._exit(0)
    except BaseException:
        report()
    os._exit(1)


def live():
    """Runs from the creation of the control socket until its removal."""
    tapdisk = Tapdisk()

    def interrupted(*_):
        unlink(*tapdisk.own)
        os._exit(1)

    _signal.signal(_signal.SIGINT, interrupted)
    tapdisk.serve()
    time.sleep(EXITING)
    unlink(*tapdisk.own)
    for name in os.listdir(tapdisk.statistics):
        unlink(f"{tapdisk.statistics}/{name}")
    os.rmdir(tapdisk.statistics)
