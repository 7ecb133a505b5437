"""Lets the fork server end at once when its supervisor is gone. It imports this after all other modules.

Python destroys every object before a process ends. With torch that takes seconds on a busy machine, and children that
hang would keep their memory and their device for as long: the kernel kills them when the fork server ends.
"""

import atexit
import os
import sys

from service.process import name_process

#: How multiprocessing starts its fork server: `python ... -c "from multiprocessing.forkserver import main; main(...)"`.
_COMMAND = "from multiprocessing.forkserver import main"

if sys.orig_argv[-1].startswith(_COMMAND):  # in any other process, the import has no effect
    name_process("genserve-fork")
    atexit.register(os._exit, 0)  # called first, for it is registered last
