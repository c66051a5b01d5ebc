"""The laws of the house for what is not Rust: lengths, names, and how each file begins."""

import ast
import unittest

from rigs import REPOSITORY

LAB_LINES_MAX = 150
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
FORBIDDEN_NAMES = {"util", "utils", "common", "helpers", "manager", "info", "data"}
LABS = sorted((REPOSITORY / "scripts/lab.d").rglob("*.sh"))
MODULES = sorted([*(REPOSITORY / "scripts/rigs").rglob("*.py"), *(REPOSITORY / "tests/rigs").glob("*.py")])


class Laws(unittest.TestCase):
    def test_the_walk_finds_the_files(self):
        self.assertGreater(len(LABS), 20)
        self.assertGreater(len(MODULES), 30)

    def test_a_lab_is_read_in_one_sitting(self):
        long = {file.name: lines for file in LABS if (lines := len(file.read_text().splitlines())) > LAB_LINES_MAX}
        self.assertEqual(long, {})

    def test_so_are_modules_and_functions(self):
        for file in MODULES:
            text = file.read_text()
            self.assertLessEqual(len(text.splitlines()), MODULE_LINES_MAX, file)
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    self.assertLessEqual(node.end_lineno - node.lineno, FUNCTION_LINES_MAX, f"{file}: {node.name}")

    def test_every_file_says_what_it_is_for(self):
        for file in MODULES:
            self.assertTrue(ast.get_docstring(ast.parse(file.read_text())), file)
        for file in LABS:
            first, second, *_ = file.read_text().splitlines()
            self.assertEqual((first, second[:2]), ("# shellcheck shell=bash", "# "), file)

    def test_no_name_says_nothing(self):
        self.assertEqual([file for file in [*LABS, *MODULES] if file.stem in FORBIDDEN_NAMES], [])


if __name__ == "__main__":
    unittest.main()
