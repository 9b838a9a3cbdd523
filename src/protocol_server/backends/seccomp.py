"""The system calls that a sandbox without Docker may make, as a program for the kernel.

libseccomp is on every Debian host (systemd needs it), so it is used through ctypes and nothing is to be installed.
What is not listed fails with EPERM; calls that the C library falls back from fail with ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final

_ALLOWED: Final = """
    accept accept4 access alarm arch_prctl bind brk
    cachestat capget capset chdir chmod chown clock_getres clock_gettime clock_nanosleep close close_range connect
    copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_wait
    futex_waitv futex_wake futimesat
    getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid getsockname
    getsockopt get_thread_area gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl kill
    lchown lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat
    madvise membarrier memfd_create mincore mkdir mkdirat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 poll ppoll prctl pread64
    preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg removexattr rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_yield select semctl semget semop semtimedop sendfile sendmmsg
    sendmsg sendto setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
    setreuid setrlimit set_robust_list setsid setsockopt set_tid_address setuid setxattr shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs sysinfo
    tee tgkill time timer_create timer_delete timerfd_create timerfd_gettime timerfd_settime timer_getoverrun
    timer_gettime timer_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes
    vfork vmsplice wait4 waitid write writev
"""
#: The C library does without them when the kernel says that it has not got them.
_NOT_THERE: Final = ("clone3",)
#: Of clone's flags those that make namespaces.
_NAMESPACE_FLAGS: Final = 0x7E020000 | 0x00000080
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

_ACT_ALLOW: Final = 0x7FFF0000
_ACT_ERRNO: Final = 0x00050000
_NO_SUCH_CALL: Final = -1
_EQUAL, _MASKED_EQUAL = 4, 7


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class SeccompError(Exception):
    """There is no filter; the message says why."""


class _Filter:
    """A filter under construction."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libseccomp.so.2")
        except OSError as error:
            raise SeccompError(f"libseccomp is not on this host: {error}") from error
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._library.seccomp_release.argtypes = (ctypes.c_void_p,)
        self._library.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Comparison),
        )
        self._library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._context = self._library.seccomp_init(_ACT_ERRNO | errno.EPERM)
        if not self._context:
            raise SeccompError("libseccomp made no filter")

    def close(self) -> None:
        self._library.seccomp_release(self._context)

    def add(self, action: int, name: str, *comparisons: _Comparison) -> None:
        """A rule; a call that this architecture or this libseccomp has not got is left out, so it fails."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number <= _NO_SUCH_CALL:
            return
        array = (_Comparison * len(comparisons))(*comparisons)
        status = self._library.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)
        if status != 0:
            raise SeccompError(f"libseccomp refuses a rule for {name}: {os.strerror(-status)}")

    def export(self) -> bytes:
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            status = self._library.seccomp_export_bpf(self._context, descriptor)
            if status != 0:
                raise SeccompError(f"libseccomp gives no program: {os.strerror(-status)}")
            os.lseek(descriptor, 0, os.SEEK_SET)
            return os.read(descriptor, 1 << 20)
        finally:
            os.close(descriptor)


def build_program() -> bytes:
    """The filter of a sandbox as a BPF program for this machine. Raises SeccompError."""
    rules = _Filter()
    try:
        for name in _ALLOWED.split():
            rules.add(_ACT_ALLOW, name)
        for name in _NOT_THERE:
            rules.add(_ACT_ERRNO | errno.ENOSYS, name)
        rules.add(_ACT_ALLOW, "clone", _Comparison(0, _MASKED_EQUAL, _NAMESPACE_FLAGS, 0))
        for family in _FAMILIES:
            rules.add(_ACT_ALLOW, "socket", _Comparison(0, _EQUAL, family, 0))
        # What Python's and R's personality(2) look at: the present value and Linux's plain one.
        for persona in (0, 0xFFFFFFFF):
            rules.add(_ACT_ALLOW, "personality", _Comparison(0, _EQUAL, persona, 0))
        return rules.export()
    finally:
        rules.close()
