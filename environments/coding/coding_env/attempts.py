"""Ways out of the sandbox, to be tried on any machine. Each is code that raises when stopped.

``{outside}`` is a file beside the sandbox that the server owns, ``{server}`` the
server's pid, ``{sibling}`` the pid and ``{siblings}`` the folder of another
session's interpreter, ``{port}`` a listening port, ``{package}`` this package's folder.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any, Final

from coding_env.sandbox import Sandbox

__all__ = ["ATTEMPTS", "RAW", "successes"]

_TOOLS: Final = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def fd_is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

def refuse(done):
    '''Raise unless the call said that it worked.'''
    if not done:
        raise OSError("refused")
"""

ATTEMPTS: Final[dict[str, dict[str, str]]] = {
    "processes": {
        "fork": "os.fork()",
        "vfork by subprocess": "subprocess.run(['/bin/true'])",
        "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
        "shell": "refuse(os.system('true') == 0)",
        "exec": "os.execv('/bin/sh', ['sh'])",
        "pty": "import pty; pty.fork()",
        "multiprocessing": "import multiprocessing as m; p = m.Process(target=print); p.start()",
        "fork by libc": "refuse(libc.fork() != -1)",
        "thread": "import threading; threading.Thread(target=print).start()",
    },
    "files": {
        "read a file": "open('{outside}').read()",
        "read this package": "open('{package}/tasks/easy.py').read()",
        "import this package": "sys.path.insert(0, '{package}/..'); import coding_env.tasks",
        "list the root": "os.listdir('/')",
        "list the package": "os.listdir('{package}')",
        "list a sibling's folder": "os.listdir('{siblings}')",
        "write to a sibling's folder": "open('{siblings}/x', 'w')",
        "passwords": "open('/etc/passwd').read()",
        "out by dots": "open('../../../../../../../../etc/hostname').read()",
        "own memory": "open('/proc/self/mem', 'r+b')",
        "own maps": "open('/proc/self/maps').read()",
        "the server's environment": "open('/proc/{server}/environ').read()",
        "the server's memory": "open('/proc/{server}/mem', 'rb')",
        "a sibling's memory": "open('/proc/{sibling}/mem', 'rb')",
        "list processes": "os.listdir('/proc')",
        "symbolic link": "os.symlink('{outside}', 'link'); open('link').read()",
        "symbolic link to a folder": "os.symlink('/etc', 'etc'); os.listdir('etc')",
        "hard link": "os.link('{outside}', 'hard'); open('hard').read()",
        "move it in": "os.rename('{outside}', 'mine')",
        "write": "open('{outside}', 'w')",
        "append": "open('{outside}', 'a')",
        "truncate while reading": "os.open('{outside}', os.O_RDONLY | os.O_TRUNC)",
        "truncate": "os.truncate('{outside}', 0)",
        "remove": "os.remove('{outside}')",
        "make a file": "open('{outside}.new', 'w')",
        "make a folder": "os.mkdir('{outside}.d')",
        "device": "os.mknod('disk', 0o600 | 0o060000, os.makedev(8, 0))",
        "fifo": "os.mkfifo('fifo')",
        "shared memory": "open('/dev/shm/openenv', 'w')",
        "terminal": "open('/dev/tty')",
        "chroot": "os.chroot('.')",
    },
    "signals": {
        "kill the server": "os.kill({server}, signal.SIGKILL)",
        "kill the zygote": "os.kill(os.getppid(), signal.SIGKILL)",
        "kill a sibling": "os.kill({sibling}, signal.SIGKILL)",
        "kill all": "os.kill(-1, signal.SIGKILL)",
        "kill the group": "os.kill(0, signal.SIGKILL)",
        "interrupt the server": "os.kill({server}, signal.SIGINT)",
        "look for the server": "os.kill({server}, 0)",
        "kill itself as from outside": "os.kill(os.getpid(), signal.SIGKILL)",
        "pidfd": "signal.pidfd_send_signal(os.pidfd_open({server}), signal.SIGKILL)",
        "owner of a pipe's signals": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {server})",
        "choice of a pipe's signal": "fcntl.fcntl(os.pipe()[0], 10, 9)",
        "alarm": "signal.setitimer(signal.ITIMER_REAL, 1)",
        "survive the server": "refuse(libc.prctl(1, 0, 0, 0, 0) == 0)",
        "nice": "os.setpriority(os.PRIO_PROCESS, 0, -5)",
        "raise a limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "raise the server's limit": "resource.prlimit({server}, resource.RLIMIT_CPU, (1, 1))",
        "become root": "os.setuid(0)",
        "session": "os.setsid()",
        "core dumps of the server": "refuse(libc.ptrace(16, {server}, 0, 0) == 0)",
    },
    "network": {
        "connect": "socket.create_connection(('127.0.0.1', {port}), 2)",
        "listen": "socket.create_server(('127.0.0.1', 0))",
        "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "unix": "socket.socket(socket.AF_UNIX)",
        "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "packet": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "a pair of another family": "socket.socketpair(socket.AF_INET)",
        "a pair with an address": "a, b = socket.socketpair(type=socket.SOCK_DGRAM);"
        " a.sendto(b'x', '/run/docker.sock')",
        "a pair that connects": "socket.socketpair()[0].connect('/run/docker.sock')",
        "descriptors over a pair": "socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
        "names": "socket.gethostbyname('example.org')",
        "http": "from urllib.request import urlopen; urlopen('http://127.0.0.1:{port}', timeout=2)",
    },
    "time": {
        "go on after the step by a thread": "import threading; threading.Timer(0.1, print).start()",
        "go on by a process": "subprocess.Popen(['/bin/sleep', '5'])",
        "go on by a daemon": "os.setsid(); os.fork()",
        "go on by a signal": "signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)",
        "go on by a detached process": "subprocess.Popen(['true'], start_new_session=True)",
        "go on by a shell": "refuse(os.system('sleep 5 &') == 0)",
        "go on by a pool": "from concurrent.futures import ProcessPoolExecutor as P;"
        " P(1).submit(print)",
        "ignore the end of the server": "refuse(libc.prctl(1, 0, 0, 0, 0) == 0)",
    },
    "quotas": {
        "a terabyte of memory": "bytearray(1 << 40)",
        "memory by a map": "mmap.mmap(-1, 1 << 36)",
        "memory in a file of it": "os.memfd_create('x')",
        "locked memory": "refuse(libc.mlock(ctypes.create_string_buffer(1 << 20), 1 << 20) == 0)",
        "a file of a gigabyte": "open('large', 'wb').truncate(1 << 30)",
        "a file that is written at its end": "f = open('far', 'wb'); f.seek(1 << 30); f.write(b'x')"
        "; f.flush()",
        "room that is reserved": "os.posix_fallocate(os.open('room', os.O_CREAT | 2), 0, 1 << 30)",
        "a thousand descriptors": "[os.dup(0) for _ in range(1000)]",
        "more descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
        "more memory": "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
        "more CPU time": "resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
        "larger files": "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))",
        "a stack without end": "def f(): f()\nf()",
        "a core dump": "resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))",
        "real-time scheduling": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "all processors": "os.sched_setaffinity(0, {{0}})",
    },
    "tests": {
        "read the templates": "open('{package}/tasks/templates.py').read()",
        "read the rows' loader": "open('{package}/tasks/rows.py').read()",
        "read the policies": "open('{package}/policies.py').read()",
        "read the grader": "open('{package}/grading.py').read()",
        "read the examiner": "open('{package}/sandbox/inside/examiner.py').read()",
        "import the templates": "sys.path.insert(0, '{package}/..'); import coding_env.tasks",
        "load the package by path": "import importlib.util as u;"
        " s = u.spec_from_file_location('t', '{package}/tasks/templates.py');"
        " s.loader.exec_module(u.module_from_spec(s))",
        "run it": "import runpy; runpy.run_path('{package}/tasks/templates.py')",
        "compile it": "import py_compile as p; p.compile('{package}/policies.py', 'x', doraise=1)",
        "list the tasks": "os.listdir('{package}/tasks')",
        "walk to them": "refuse([f for _, _, f in os.walk('{package}') if f])",
        "by its metadata": "from importlib.metadata import files as f;"
        " f('openenv-async-coding')[0]",
        "by a link": "os.symlink('{package}', 'package'); os.listdir('package/tasks')",
        "by an open folder": "os.open('tasks', 0, dir_fd=os.open('{package}', os.O_PATH))",
        "by the compiled files": "os.listdir('{package}/tasks/__pycache__')",
        "by zip": "import zipimport; zipimport.zipimporter('{package}/tasks/easy.py')",
        "by another's folder": "open('{siblings}/solution.py').read()",
        "by the server's folder": "os.listdir('/proc/{server}/cwd')",
        "by the server's descriptors": "os.listdir('/proc/{server}/fd')",
        "by the zygote's memory": "open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    },
    "harness": {
        "the tasks in memory": "refuse([n for n in sys.modules if 'coding_env' in n])",
        "the server's modules": "refuse({{'msgspec', 'openenv_async', 'site'}} & set(sys.modules))",
        "the server's variables": "refuse({{'OPENENV_TOKEN', 'PYTHONPATH'}} & set(os.environ))",
        "descriptors": "refuse([fd for fd in range(4, 4096) if fd_is_open(fd)])",
    },
}
"""Groups of attempts: name and code, run after ``_TOOLS``."""

RAW: Final[dict[str, str]] = {
    "clone as fork does": "call(56, 17, 0, 0, 0, 0)",
    "clone into namespaces": "call(56, 0x7E020000 | 17, 0, 0, 0, 0)",
    "clone3": "call(435, struct.pack('=11Q', *[0] * 4, 17, *[0] * 6), 88)",
    "fork": "call(57)",
    "vfork": "call(58)",
    "execveat": "call(322, -100, b'/bin/true', None, None, 0)",
    "a 32-bit number": "call(0x40000000 | 39)",
    "ptrace": "call(101, 16, {server}, 0, 0)",
    "process_vm_readv": "call(310, {server}, 0, 0, 0, 0, 0)",
    "process_vm_writev": "call(311, {server}, 0, 0, 0, 0, 0)",
    "pidfd_open": "call(434, {server}, 0)",
    "pidfd_getfd": "call(438, 3, 0, 0)",
    "kcmp": "call(312, {server}, {server}, 0, 0, 0)",
    "tgkill": "call(234, {server}, {server}, 9)",
    "tkill": "call(200, {server}, 9)",
    "rt_sigqueueinfo": "call(129, {server}, 9, b' ' * 128)",
    "timer_create": "call(222, 0, None, ctypes.create_string_buffer(8))",
    "socket": "call(41, 2, 1, 0)",
    "connect": "call(42, 0, b' ' * 16, 16)",
    "sendmsg": "call(46, 1, b' ' * 56, 0)",
    "sendmmsg": "call(307, 1, b' ' * 64, 1, 0)",
    "recvmsg": "call(47, 3, ctypes.create_string_buffer(56), 0x40)",
    "io_uring_setup": "call(425, 4, ctypes.create_string_buffer(120))",
    "bpf": "call(321, 0, b' ' * 128, 128)",
    "perf_event_open": "call(298, b' ' * 128, 0, -1, -1, 0)",
    "userfaultfd": "call(323, 0)",
    "keyctl": "call(250, 0, -3, 0)",
    "add_key": "call(248, b'user', b'x', b'y', 1, -3)",
    "memfd_create": "call(319, b'x', 0)",
    "memfd_secret": "call(447, 0)",
    "shmget": "call(29, 1, 4096, 0o1600)",
    "msgget": "call(68, 1, 0o1600)",
    "semget": "call(64, 1, 1, 0o1600)",
    "mq_open": "call(240, b'x', 0o102, 0o600, None)",
    "unshare": "call(272, 0x10000000)",
    "setns": "call(308, 0, 0)",
    "mount": "call(165, b'none', b'.', b'tmpfs', 0, None)",
    "pivot_root": "call(155, b'.', b'.')",
    "open_by_handle_at": "call(304, -100, b' ' * 16, 0)",
    "openat2": "call(437, -100, b'{outside}', struct.pack('=3Q', 0, 0, 0), 24)",
    "open_tree": "call(428, -100, b'/', 1)",
    "setxattr": "call(188, b'{outside}', b'user.x', b'y', 1, 0)",
    "inotify": "call(294, 0)",
    "fanotify": "call(300, 0, 0)",
    "personality": "call(135, 0x0040000)",
    "capset": "call(126, struct.pack('=Ii', 0x20080522, 0), b'\\xff' * 24)",
    "setpgid": "call(109, 0, 0)",
    "sched_setaffinity": "call(203, {server}, 8, b'\\x01' + b'\\0' * 7)",
    "prlimit of the server": "call(302, {server}, 0, struct.pack('=QQ', 1, 1), None)",
    "reboot": "call(169, 0xfee1dead, 672274793, 0x89abcdef, 0)",
    "kexec_load": "call(246, 0, 0, 0, 0)",
    "init_module": "call(175, b'', 0, b'')",
    "another filter that allows": "call(317, 1, 0, struct.pack('=HxxxxxxQ', 0, 0))",
    "another Landlock ruleset": "call(444, struct.pack('=QQQ', 8191, 0, 0), 24, 0)",
    "mlockall": "call(151, 3)",
    "sync": "call(306, 0)",
}
"""Attempts by the numbers of x86-64, past whatever libraries do."""

_TRY: Final = """
import json
print()  # whatever stands in the line already
try:
    exec(attempt)
except BaseException as exc:
    print(json.dumps([False, repr(exc)]))
else:
    print(json.dumps([True, ""]))
"""


async def successes(sandbox: Sandbox, group: str, facts: Mapping[str, Any]) -> list[str]:
    """Try a group of attempts, ``raw`` included, and name those that were not stopped.

    One that ends the interpreter counts as a success: it was not refused.
    """
    if group == "raw" and platform.machine() != "x86_64":
        return []
    found = []
    for name, code in (RAW if group == "raw" else ATTEMPTS[group]).items():
        await sandbox.set({"attempt": code.format(**facts)})
        await sandbox.execute(_TOOLS)
        tried = await sandbox.execute(_TRY, timeout=20.0)
        lines = tried.stdout.splitlines()
        if tried.restarted or not lines or json.loads(lines[-1])[0]:
            found.append(f"{name}: {tried}")
    return found
