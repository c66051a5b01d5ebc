"""Manual pages and completions of scripts/nic and scripts/host: all commands and options, in forms that their readers take."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from machine_tree import SCRIPTS, script

COMMANDS = {
    "lvs-nic": {"list": [], "status": [], "bind": ["--driver", "--no-iommu", "--persist", "--dry-run"], "unbind": []},
    "lvs-host": {"check": ["--config", "--cores", "--hugepages", "--page"],
                 "apply": ["--config", "--cores", "--hugepages", "--page", "--no-boot", "--dry-run"], "revert": []},
}


class Documents(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        subprocess.run([sys.executable, "-B", SCRIPTS.parent / "packaging/script-documents", folder.name], check=True)

    def test_the_list_above_is_what_the_scripts_have(self):
        for name, commands in COMMANDS.items():
            for command, options in commands.items():
                module = script(name.removeprefix("lvs-"))
                usage = next(action for action in module.command_line()._actions if action.choices)
                has = [one.option_strings[0] for one in usage.choices[command]._actions
                       if one.option_strings and one.dest != "help"]
                self.assertEqual((list(usage.choices), has), (list(commands), options), name)

    def test_a_page_names_each_command_and_option_and_groff_takes_it(self):
        for name, commands in COMMANDS.items():
            page = self.folder / f"man/{name}.8"
            shown = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", "-ww", page], capture_output=True, text=True, check=True)
            self.assertEqual(shown.stderr, "")
            for word in [*commands, *(option for options in commands.values() for option in options)]:
                self.assertIn(word, shown.stdout, name)

    def test_bash_completes_commands_and_options(self):
        def completed(name, *words):
            line = (f"source {self.folder}/completion/bash/{name}.bash; COMP_WORDS=({name} {' '.join(words)}); "
                    f"COMP_CWORD={len(words)}; _{name.replace('-', '_')}; echo ${{COMPREPLY[@]}}")
            return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual(completed("lvs-nic", "un"), ["unbind"])
        self.assertEqual(completed("lvs-nic", "bind", "--p"), ["--persist"])
        self.assertIn("lo", completed("lvs-nic", "bind", "l"))
        self.assertEqual(completed("lvs-host", "apply", "--no"), ["--no-boot"])
        self.assertEqual(completed("lvs-host", "revert", "--"), [])

    def test_zsh_and_fish_are_told_of_each_command_and_option(self):
        for name, commands in COMMANDS.items():
            zsh, fish = ((self.folder / "completion" / place).read_text() for place in (f"zsh/_{name}", f"fish/{name}.fish"))
            for command, options in commands.items():
                self.assertIn(f"'{command}:", zsh)
                self.assertIn(f"-a {command} ", fish)
                for option in options:
                    self.assertIn(f"'{option}[", zsh)
                    self.assertIn(f"-l {option[2:]} ", fish)


if __name__ == "__main__":
    unittest.main()
