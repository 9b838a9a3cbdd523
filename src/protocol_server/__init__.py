"""The protocol server: the control plane of a segment host.

It decides who may use which runtime, starts and stops sandboxes, and hands a backend the descriptors that lead to its
sandbox. It is never in the data path. The wire is described in src/protocol/PROTOCOL.md.
"""

__version__ = "0.1.0"
