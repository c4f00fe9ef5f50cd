#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Process 1 of the lab's guest: sets the system up, then runs commands for the host.

The host's end of the line is `lab/vm keeper`. Frames in both directions: one byte that says
what it is, a channel (2 bytes) that says which command it belongs to, the length of the payload
(4 bytes, big-endian like the channel), the payload.

    host to guest                           guest to host
    r  run: JSON argv, cwd, env             R  ready; payload: seconds since the kernel started
    i  standard input; empty: its end       A  that input was taken, send more
    s  a signal number for the command      O  standard output      E  standard error
    k  nobody waits any more: kill it       X  exit status in decimal, or minus a signal number
    h  halt: export pools and power off     T  this many bytes of the line were taken
                                            L  a library cache for the next boots
"""

import ctypes
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty

HEADER = struct.Struct(">cHI")
LINE = "/dev/ttyS0"
SYSLOG_FILE = "/var/log/messages"
CANNOT_RUN, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
EXPORT_SECONDS = 30

MS_BIND = 0x1000
POWER_OFF = 0x4321FEDC
SYS_FINIT_MODULE = 313

libc = ctypes.CDLL(None, use_errno=True)


def console(text):
    with open("/dev/console", "w") as out:
        out.write(f"lab: {text}\n")


# ------------------------------------------------------------------ setting the system up
# With system calls instead of mount(8), insmod(8) and so on: starting a program is the one
# thing that is slow here, and every boot would pay for it.


def check(result, what):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source, target, fstype=None, flags=0, options=None):
    os.makedirs(target, exist_ok=True)
    args = [None if x is None else x.encode() for x in (source, target, fstype)]
    check(libc.mount(*args, ctypes.c_ulong(flags), options and options.encode()), "mount on " + target)


def write(path, text, mode="w"):
    with open(path, mode) as f:
        f.write(text)


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def mount_filesystems():
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", "/run", "tmpfs", options="mode=755")
    mount("devpts", "/dev/pts", "devpts", options="mode=620,ptmxmode=666")
    mount("tmpfs", "/dev/shm", "tmpfs", options="mode=1777")
    os.makedirs("/run/lock", exist_ok=True)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        if not os.path.lexists("/dev/" + name):
            os.symlink(target, "/dev/" + name)


def mount_shares(shares):
    """The host's directories that are writable here. Last, as /tmp may hide what was needed until now."""
    mount("tmpfs", "/tmp", "tmpfs", options="mode=1777")
    for path in shares:
        mount("none", path, "hostfs", options=path)


def set_identity(hostname, hostid):
    """What must not come from the host: its pools, its host id, its name."""
    socket.sethostname(hostname)
    remove("/etc/zfs/zpool.cache")
    remove("/etc/hostid")
    if hostid:
        write("/etc/hostid", struct.pack("<I", int(hostid, 16)), "wb")


def loopback_up():
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        import fcntl

        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def start_udev(zfs_dir, lab_dir):
    """A real udevd, with only the rules that a storage host needs: each rule costs time."""
    rules = "/run/udev/rules.d"
    os.makedirs(rules)
    names = ["50-udev-default.rules", "55-dm.rules", "60-persistent-storage-dm.rules", "95-dm-notify.rules"]
    sources = ["/lib/udev/rules.d/" + n for n in names]
    sources += [zfs_dir + "/rules.d/60-zvol.rules", lab_dir + "/guest/99-lab.rules"]
    for source in sources:
        if os.path.exists(source):
            shutil.copy(source, rules)
    mount(rules, "/lib/udev/rules.d", flags=MS_BIND)
    for name in os.listdir("/etc/udev/rules.d"):
        os.unlink("/etc/udev/rules.d/" + name)
    subprocess.run(["/lib/systemd/systemd-udevd", "--daemon", "--children-max=4"], check=True)


def load_modules(zfs_dir, zfs_options):
    with open(zfs_dir + "/modules/order") as f:
        names = f.read().split()
    for name in names:
        fd = os.open(zfs_dir + "/modules/" + name, os.O_RDONLY)
        options = zfs_options if name == "zfs.ko" else ""
        check(libc.syscall(SYS_FINIT_MODULE, fd, options.encode(), 0), f"loading {name} {options}")
        os.close(fd)


def cache_libraries(stored):
    """Have ctypes.util.find_library (and so libzfs_core's Python binding) find the OpenZFS libraries.

    Here it asks the cache that ldconfig makes, and the host's does not have them. ldconfig takes half a second:
    the host keeps the result as `stored`, until its own libraries change. Returns a result that is new, or None.
    """
    cache = "/etc/ld.so.cache"
    if os.path.exists(stored) and os.path.getmtime(stored) > os.path.getmtime(cache):
        shutil.copyfile(stored, cache)
        return None
    subprocess.run(["ldconfig", "-X"], check=True)
    with open(cache, "rb") as f:
        return f.read()


def coldplug():
    """Have udev see the disks and /dev/zfs, like `udevadm trigger` and `settle` but without the processes."""
    paths = [f"/sys/block/{name}/uevent" for name in os.listdir("/sys/block")]
    paths += [f"/sys/class/misc/{name}/uevent" for name in os.listdir("/sys/class/misc")]
    for path in paths:
        write(path, "add")
    end = time.monotonic() + 30
    while os.path.exists("/run/udev/queue") and time.monotonic() < end:
        time.sleep(0.005)


def set_up(env):
    mount_filesystems()
    set_identity(env["LAB_HOSTNAME"], env["LAB_HOSTID"])
    loopback_up()
    start_udev(env["LAB_ZFS"], env["LAB_DIR"])
    load_modules(env["LAB_ZFS"], env["LAB_ZFS_OPTS"])
    coldplug()
    library_cache = cache_libraries(env["LAB_ZFS"] + "/ld.so.cache")
    mount_shares(env["LAB_SHARES"].split("\n"))
    return library_cache


# ---------------------------------------------------------------------- running commands


class Command:
    """One command of the host's: its process, and its three pipes."""

    def __init__(self, agent, channel, request):
        self.agent, self.channel = agent, channel
        self.pid = self.status = None
        self.unanswered = self.input_ended = False
        self.pending = b""
        in_r, in_w = os.pipe()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            become(request, (in_r, out_w, err_w))
        for fd in (in_r, out_w, err_w):
            os.close(fd)
        os.set_blocking(in_w, False)
        self.stdin = in_w
        self.outputs = {out_r: b"O", err_r: b"E"}
        for fd in self.outputs:
            agent.watch(fd, selectors.EVENT_READ, self.on_output)

    def on_output(self, fd):
        data = os.read(fd, 65536)
        if data:
            self.agent.send(self.outputs[fd], self.channel, data)
        else:
            self.close_output(fd)
            self.finish_if_done()

    def close_output(self, fd):
        del self.outputs[fd]
        self.agent.unwatch(fd)
        os.close(fd)

    def take_input(self, data):
        if data:
            self.pending += data
            self.unanswered = True
        else:
            self.input_ended = True
        self.feed()

    def feed(self, _fd=None):
        """Write what the command takes; the host is asked for more only then, so that it cannot flood us."""
        try:
            while self.pending and self.stdin is not None:
                self.pending = self.pending[os.write(self.stdin, self.pending) :]
        except BlockingIOError:
            self.agent.watch(self.stdin, selectors.EVENT_WRITE, self.feed)
            return
        except BrokenPipeError:
            self.input_ended = True
        self.pending = b""
        if self.stdin is not None:
            self.agent.unwatch(self.stdin)
            if self.input_ended:
                os.close(self.stdin)
                self.stdin = None
        if self.unanswered:
            self.unanswered = False
            self.agent.send(b"A", self.channel)

    def signal(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def finish_if_done(self):
        if self.status is not None and not self.outputs:
            self.finish()

    def drain(self):
        """The command has ended: pass on what is in the pipes, but do not wait for daemons that hold them."""
        for fd in list(self.outputs):
            os.set_blocking(fd, False)
            try:
                while fd in self.outputs:
                    self.on_output(fd)
            except BlockingIOError:
                self.close_output(fd)

    def finish(self):
        if self.stdin is not None:
            self.agent.unwatch(self.stdin)
            os.close(self.stdin)
            self.stdin = None
        self.agent.commands.pop(self.channel, None)
        self.agent.send(b"X", self.channel, b"%d" % os.waitstatus_to_exitcode(self.status))


def become(request, stdio):
    """In the child: turn into the command; never returns."""
    status = CANNOT_RUN
    try:
        os.setsid()
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        os.closerange(3, 256)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        env = dict(os.environ, **request["env"])
        os.environ["PATH"] = env["PATH"]
        os.chdir(request["cwd"])
        status = NOT_FOUND
        os.execvpe(request["argv"][0], request["argv"], env)
    except OSError as e:
        if status == NOT_FOUND and e.errno not in (errno.ENOENT, errno.ENOTDIR):
            status = NOT_EXECUTABLE
        os.write(2, ("lab: cannot run {}: {}\n".format(request["argv"][0], e.strerror)).encode())
    finally:
        os._exit(status)


class Agent:
    def __init__(self):
        self.commands = {}
        self.received = b""
        self.selector = selectors.DefaultSelector()
        self.line = os.open(LINE, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.line, termios.TCSANOW)
        os.set_blocking(self.line, True)
        self.watch(self.line, selectors.EVENT_READ, self.on_line)

    def watch(self, fd, event, handler):
        try:
            self.selector.register(fd, event, handler)
        except KeyError:
            pass

    def unwatch(self, fd):
        try:
            self.selector.unregister(fd)
        except KeyError:
            pass

    def send(self, kind, channel, payload=b""):
        data = HEADER.pack(kind, channel, len(payload)) + payload
        while data:
            data = data[os.write(self.line, data) :]

    def on_line(self, fd):
        data = os.read(fd, 65536)
        if not data:
            raise EOFError("the host's end of the line is gone")
        self.send(b"T", 0, b"%d" % len(data))
        self.received += data
        while len(self.received) >= HEADER.size:
            kind, channel, length = HEADER.unpack_from(self.received)
            end = HEADER.size + length
            if len(self.received) < end:
                return
            payload, self.received = self.received[HEADER.size : end], self.received[end:]
            self.on_frame(kind, channel, payload)

    def on_frame(self, kind, channel, payload):
        command = self.commands.get(channel)
        if kind == b"r":
            self.commands[channel] = Command(self, channel, json.loads(payload))
        elif kind == b"h":
            power_off()
        elif command is None:
            return  # has ended in the meantime
        elif kind == b"i":
            command.take_input(payload)
        elif kind == b"s":
            command.signal(int(payload))
        elif kind == b"k":
            command.signal(signal.SIGKILL)

    def on_child(self, fd):
        """Reap every process that ended: as process 1, we inherit those of others, too."""
        os.read(fd, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for command in list(self.commands.values()):
                if command.pid == pid:
                    command.status = status
                    command.drain()
                    command.finish_if_done()

    def on_syslog(self, fd):
        """Keep what programs send to syslog, one message a line and as sent, the priority included."""
        message = os.read(fd, 65536).rstrip(b"\0\n")
        os.write(self.syslog_file, message.replace(b"\n", b"#012") + b"\n")

    def open_syslog(self):
        self.syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        remove("/dev/log")
        self.syslog.bind("/dev/log")
        os.chmod("/dev/log", 0o666)
        remove(SYSLOG_FILE)
        os.makedirs(os.path.dirname(SYSLOG_FILE), exist_ok=True)
        self.syslog_file = os.open(SYSLOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self.watch(self.syslog.fileno(), selectors.EVENT_READ, self.on_syslog)

    def serve(self, library_cache):
        self.open_syslog()
        child_r, child_w = os.pipe()
        os.set_blocking(child_w, False)
        signal.signal(signal.SIGCHLD, lambda *args: None)
        signal.set_wakeup_fd(child_w, warn_on_full_buffer=False)
        self.watch(child_r, selectors.EVENT_READ, self.on_child)
        if library_cache:
            self.send(b"L", 0, library_cache)
        with open("/proc/uptime") as f:
            self.send(b"R", 0, f.read().split()[0].encode())
        while True:
            for key, _events in self.selector.select():
                # an earlier handler of this round may have closed it
                if key.fd in self.selector.get_map():
                    key.data(key.fd)


def a_pool_is_suspended():
    """Exporting or syncing would wait for it forever."""
    try:
        for name in os.listdir("/proc/spl/kstat/zfs"):
            path = f"/proc/spl/kstat/zfs/{name}/state"
            if os.path.exists(path):
                with open(path) as f:
                    if "SUSPENDED" in f.read():
                        return True
    except OSError:
        pass
    return False


def power_off():
    if a_pool_is_suspended():
        console("a pool is suspended: powering off without exporting")
    else:
        try:
            if os.path.exists("/proc/spl/kstat/zfs"):
                subprocess.run(["zpool", "export", "-a"], timeout=EXPORT_SECONDS, stdin=subprocess.DEVNULL)
            os.sync()
        except subprocess.TimeoutExpired:
            console("zpool export did not end in %d s: powering off without" % EXPORT_SECONDS)
    libc.reboot(POWER_OFF)


def main():
    os.environ.update(PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LANG="C.UTF-8")
    env = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("LAB_")}
    try:
        library_cache = set_up(env)
        disks = env["LAB_DISKS"].split()
        os.environ["VM_DISKS"] = " ".join(disks)
        os.environ["VM_SHARED_DISKS"] = env["LAB_SHARED_DISKS"]
        os.chdir("/")
        Agent().serve(library_cache)
    except EOFError:
        power_off()
    except BaseException:
        import traceback

        console(traceback.format_exc())
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    sys.exit(main())
