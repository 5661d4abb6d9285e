"""A prompt and the branches that hang from it: the one abstraction behind label scores and log-probabilities.

Completions, path A's direct answer, path B's answers after each rationale and every candidate label are branches. A
branch sees the prompt (or a part of it), its ancestors up to the point where it leaves them, and itself. All branches
of a prompt lie side by side in one packed row behind the prompt::

    [ padding | X | c_1 | c_2 | ... | labels of c_1 | ... ]

so that the prompt is computed once, in one forward pass, whatever hangs from it. The attention mask keeps branches
apart, and each branch's positions continue where it leaves its parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROMPT = -1
"""Parent of the branches that hang from the prompt itself."""


@dataclass(slots=True, kw_only=True)
class Branch:
    """Tokens that continue the prompt or another branch."""

    ids: list[int]
    parent: int = PROMPT
    """Index of the parent among the prompt's branches (parents come first), or PROMPT."""
    at: int | None = None
    """How many of the parent's tokens the branch sees; None is all. Unpadded count where the parent is the prompt."""
    scored: bool = True
    """Whether the log-probabilities of its tokens are wanted."""


@dataclass(slots=True, kw_only=True)
class PackedTrees:
    """The branches of B prompts as tensors. S is the padded number of branch tokens of a prompt, M of scored tokens.

    Columns count from the start of the padded row: 0..L-1 are the prompt's, L..L+S-1 the branches'.
    """

    ids_BS: Tensor
    """Token ids, padded on the right with 0."""
    positions_3BS: Tensor
    visible: Tensor
    """Bool (B, S, L + S): the columns that each branch token attends to. A padding token sees only itself."""
    predictors_M: Tensor
    """Index into the flattened (B * (L + S)) hidden states of the state that predicts each scored token."""
    targets_M: Tensor
    """Id of each scored token."""
    branches_M: Tensor
    """Which branch each scored token belongs to, counted over all prompts in order."""
    steps_M: Tensor
    """Place of each scored token within its branch."""
    n_branches: int

    def to(self, device: torch.device) -> PackedTrees:
        """Copy to a device."""
        names = ("ids_BS", "positions_3BS", "visible", "predictors_M", "targets_M", "branches_M", "steps_M")
        return PackedTrees(n_branches=self.n_branches, **{name: getattr(self, name).to(device) for name in names})

    def per_branch(self, logps_M: Tensor) -> Tensor:
        """Sum of the log-probabilities of each branch, shape (branches,); 0 for branches that are not scored."""
        return logps_M.new_zeros(self.n_branches).index_add(0, self.branches_M, logps_M)

    def per_token(self, logps_M: Tensor, branches: Sequence[int], length: int) -> Tensor:
        """Log-probabilities of some branches as a padded matrix (len(branches), length); 0 is padding."""
        rows = torch.full((self.n_branches,), -1, dtype=torch.long, device=logps_M.device)
        rows[torch.as_tensor(branches, device=logps_M.device)] = torch.arange(len(branches), device=logps_M.device)
        row_M = rows[self.branches_M]
        keep = row_M >= 0
        return logps_M.new_zeros(len(branches), length).index_put((row_M[keep], self.steps_M[keep]), logps_M[keep])


def pack(trees: Sequence[Sequence[Branch]], mask_BL: Tensor, positions_3BL: Tensor) -> PackedTrees:
    """Lay the branches of each prompt side by side.

    Args:
        trees: The branches of each of the B prompts.
        mask_BL: True on the prompts' tokens; padding is on the left.
        positions_3BL: Positions of the prompts' tokens.

    Returns:
        The packed rows, on the CPU.

    Raises:
        ValueError: If a branch is empty, precedes its parent, or leaves it beyond its end, before its first token, or
            inside a video.
    """
    mask_BL, positions_3BL = mask_BL.cpu(), positions_3BL.cpu()
    length, width = mask_BL.shape[1], max(sum(len(b.ids) for b in tree) for tree in trees)
    ids_BS = torch.zeros(len(trees), width, dtype=torch.long)
    positions_3BS = torch.zeros(3, len(trees), width, dtype=torch.long)
    visible = torch.zeros(len(trees), width, length + width, dtype=torch.bool)
    visible[:, torch.arange(width), length + torch.arange(width)] = True
    scored: list[tuple[int, int, int, int]] = []
    first = 0
    for row, tree in enumerate(trees):
        layout = _Layout(length, int(mask_BL[row].sum()), positions_3BL[:, row])
        for index, branch in enumerate(tree):
            start, position, previous, context = layout.add(branch)
            own = slice(start - length, start - length + len(branch.ids))
            ids_BS[row, own] = torch.tensor(branch.ids, dtype=torch.long)
            positions_3BS[:, row, own] = torch.arange(position, position + len(branch.ids))
            for left, right in context:
                visible[row, own, left:right] = True
            visible[row, own, start : start + len(branch.ids)] = torch.ones(2 * [len(branch.ids)]).tril().bool()
            if branch.scored:
                # The first token is predicted by the last one before it, in whichever branch (or prompt) that is.
                for step, target in enumerate(branch.ids):
                    source = start + step - 1 if step else previous
                    scored.append((row * (length + width) + source, target, first + index, step))
        first += len(tree)
    predictors_M, targets_M, branches_M, steps_M = torch.tensor(scored, dtype=torch.long).reshape(-1, 4).unbind(1)
    return PackedTrees(
        ids_BS=ids_BS,
        positions_3BS=positions_3BS,
        visible=visible,
        predictors_M=predictors_M,
        targets_M=targets_M,
        branches_M=branches_M,
        steps_M=steps_M,
        n_branches=first,
    )


class _Layout:
    """Columns of one prompt's packed row, filled branch by branch."""

    def __init__(self, length: int, n_prompt: int, positions_3L: Tensor) -> None:
        self.pad = length - n_prompt
        self.next_column = length
        self.positions_3L = positions_3L
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.first_positions: list[int] = []
        self.contexts: list[list[tuple[int, int]]] = []

    def add(self, branch: Branch) -> tuple[int, int, int, list[tuple[int, int]]]:
        """Place a branch; return its first column, first position, the column before it, and the spans it sees."""
        if not PROMPT <= branch.parent < len(self.starts):
            raise ValueError(
                f"A branch names the parent {branch.parent}, and {len(self.starts)} branches come before it; expected "
                "one of those, or PROMPT."
            )
        if branch.parent == PROMPT:
            start, size, context = self.pad, self.positions_3L.shape[1] - self.pad, []
        else:
            start, size, context = self.starts[branch.parent], self.sizes[branch.parent], self.contexts[branch.parent]
        at = size if branch.at is None else branch.at
        if not 0 < at <= size or not branch.ids:
            raise ValueError(
                f"A branch of {len(branch.ids)} tokens leaves its parent after token {at} of {size}; "
                f"expected 1 to {size} and at least one token."
            )
        previous = start + at - 1
        if branch.parent == PROMPT:
            position = self._text_position(previous) + 1
        else:
            position = self.first_positions[branch.parent] + at
        placed = (self.next_column, position, previous, [*context, (start, start + at)])
        self.starts.append(self.next_column)
        self.sizes.append(len(branch.ids))
        self.first_positions.append(position)
        self.contexts.append(placed[3])
        self.next_column += len(branch.ids)
        return placed

    def _text_position(self, column: int) -> int:
        """Position of a token of the prompt. Branches leave the prompt in its text, where the three axes agree."""
        axes = self.positions_3L[:, column].tolist()
        if len(set(axes)) > 1:
            raise ValueError(
                f"A branch leaves its prompt inside a video, after the token at {axes}; expected a place in its text."
            )
        return int(axes[0])
