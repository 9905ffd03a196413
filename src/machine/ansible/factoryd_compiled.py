"""Sends Ansible's modules compiled besides, so that a guest need not compile the same thousands of lines for each task.

Ansible packs a module and all that it imports into an archive, as source, and Python imports from that archive in the
guest. There it looks for a compiled file first, and takes the source beside it where another version of Python made
the compiled one: so the same code runs, whatever the guest has.
"""

import importlib.machinery
import importlib.util
import marshal
import os
import types
import warnings
import zipfile

import ansible
from ansible.executor import module_common
from ansible.plugins.callback import CallbackBase

LIBRARY = os.path.dirname(os.path.dirname(os.path.abspath(ansible.__file__)))
# Taken as it is, whatever the time or the content of the source: both come from the same archive.
UNCHECKED = (1).to_bytes(4, 'little')


def code_of(name, source):
    """The code of a file of the archive; Python's own cache has it where it is one of the installed Ansible."""
    installed = os.path.join(LIBRARY, name)
    try:
        with open(installed, 'rb') as file:
            if file.read() == source:
                return importlib.machinery.SourceFileLoader(name, installed).get_code(name)
    except OSError:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return compile(source, name, 'exec', dont_inherit=True)


class Archive(zipfile.ZipFile):
    def writestr(self, info, data, *args, **options):
        super().writestr(info, data, *args, **options)
        name = getattr(info, 'filename', info)
        if not name.endswith('.py'):
            return
        source = data.encode() if isinstance(data, str) else data
        try:
            code = marshal.dumps(code_of(name, source))
        except Exception:
            # The guest's Python says what is wrong with it, as it always did.
            return
        super().writestr(name + 'c', importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(source) + code)


class CallbackModule(CallbackBase):
    """Says nothing: what is loaded as a callback is there before the first module is packed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = 'aggregate'
    CALLBACK_NAME = 'factoryd_compiled'

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        module_common.zipfile = types.SimpleNamespace(**dict(vars(zipfile), ZipFile=Archive))
