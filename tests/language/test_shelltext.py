"""How a value stands at each place of a shell script."""

from __future__ import annotations

import pytest

from runbook.language.shelltext import quotings

# The places asked about are marked with @.
PLACES = {
    "echo @": ["bare"],
    "echo a@b": ["bare"],
    'echo "a @ b" @': ["double", "bare"],
    "echo 'a @ b' @": ["single", "bare"],
    'echo "it\'s @"': ["double"],
    "echo 'say \"' @": ["bare"],
    r'echo "\" @" @': ["double", "bare"],
    r"echo \' @": ["bare"],
    r"echo '\' @": ["bare"],
    "echo # @": ["comment"],
    "echo a#@": ["bare"],
    "echo ${#a} @": ["bare"],
    "echo # it's\necho @": ["bare"],
    "echo $(cat @)": ["bare"],
    'echo "$(cat @)" @': ["bare", "bare"],
    'echo "$(cat "@") @"': ["double", "double"],
    "echo `cat @` @": ["bare", "bare"],
    'echo "`cat @` @"': ["bare", "double"],
    "echo $((1 + @)) @": ["arithmetic", "bare"],
    "echo $(((1) + @))": ["arithmetic"],
    "echo ${a:-@} @": ["bare", "bare"],
    'echo "${a:-@}" @': ["double", "bare"],
    "(echo @)": ["bare"],
    "cat <<END\n@\nEND\necho @": ["heredoc", "bare"],
    "cat <<'END' @\n@\nEND\necho @": ["bare", "heredoc", "bare"],
    "cat <<-END\n\t@\n\tEND\necho @": ["heredoc", "bare"],
    "cat <<A <<B\n@\nA\n@\nB\necho @": ["heredoc", "heredoc", "bare"],
    "cat <<END\nnever closed @": ["heredoc"],
    "echo '\n@\n' @": ["single", "bare"],
}


@pytest.mark.parametrize("script", PLACES)
def test_quoting(script: str) -> None:
    offsets = [index for index, char in enumerate(script) if char == "@"]
    assert quotings(script, offsets) == PLACES[script]
