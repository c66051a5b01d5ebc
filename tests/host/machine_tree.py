"""A machine to try scripts/nic and scripts/host on: a tree of files below a temporary folder, with just as much of
the kernel's behaviour behind it as binding needs, and answers to the commands that the scripts run."""

import ast
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name):
    """A script as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    loader_spec = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(loader_spec)
    sys.modules[name] = module
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


def watch(exception):
    """Lines of a script from which this exception is raised from now on."""
    lines, plain = set(), exception.__init__

    def watching(self, *words):
        frame = sys._getframe(1)
        lines.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        plain(self, *words)

    exception.__init__ = watching
    return lines


def raised_nowhere(name, exception, lines):
    """Places of a script that raise this exception, and were not seen to."""
    tree = ast.parse((SCRIPTS / name).read_text())
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
              and getattr(node.exc.func, "id", "") == exception]
    return [f"{name}:{node.lineno}" for node in places
            if not any((name, line) in lines for line in range(node.lineno, node.end_lineno + 1))]


class TreeCase(unittest.TestCase):
    """A test with an empty machine; `self.answers` maps the start of a command line to its output."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.answers = {}
        self.commands = []

    def file(self, path, text=""):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")
        return place

    def folder(self, path):
        place = self.root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def link(self, path, target):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            place.unlink()
        place.symlink_to(target)

    def text(self, path):
        return (self.root / path.lstrip("/")).read_text().strip()

    def answer(self, command, refusal):
        """Output for a command line: that of the longest prefix known; a Refusal is raised; a function is called."""
        line = " ".join(command)
        self.commands.append(line)
        known = [start for start in self.answers if line.startswith(start)]
        if not known:
            raise refusal(f"`{line}` failed: unexpected in this test", "-")
        found = self.answers[max(known, key=len)]
        if isinstance(found, Exception):
            raise found
        return found() if callable(found) else found

    def outputs(self, call, *arguments):
        """(exit code, standard output, standard error) of a script's `main`."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call(*arguments)
        return code, out.getvalue(), err.getvalue()


os.environ.pop("SSH_CONNECTION", None)
