"""A prompt and the branches that hang from it: the one way in for label scores, log-probabilities and rollouts.

Completions, path A's direct answer, path B's answers after each rationale and every candidate label are branches. A
branch sees the prompt (or a part of it), its ancestors up to the point where it leaves them, and itself. All prompts of
a batch and all their branches lie behind each other in one row without padding::

    [ X_1 | c_1 | c_2 | ... | labels of c_1 | ... | X_2 | c_1 | ... ]

so that each prompt is computed once, in one forward pass, whatever hangs from it; or the prompts (and completions)
were computed before, and the row holds the branches alone. Each branch's positions continue where it leaves its parent.
Who sees whom is written down here; how it is computed is the business of `policies.attention`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

PROMPT = -1
"""Parent of the branches that hang from the prompt itself."""

Span = tuple[int, int]
"""First column and the one behind the last."""


@dataclass(slots=True, kw_only=True)
class Branch:
    """Tokens that continue the prompt or another branch."""

    ids: list[int]
    parent: int = PROMPT
    """Index of the parent among the prompt's branches (parents come first), or PROMPT. Completions that were kept with
    the prompt are its first branches."""
    at: int | None = None
    """How many of the parent's tokens the branch sees; None is all."""
    scored: bool = True
    """Whether the log-probabilities of its tokens are wanted."""


@dataclass(slots=True, kw_only=True)
class Run:
    """Consecutive new tokens each of which sees the same context, the run's tokens before it, and itself.

    Columns count over all keys: those that were kept come first, then the row's new tokens.
    """

    start: int
    stop: int
    context: tuple[Span, ...]
    """Spans of columns that all tokens of the run see."""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True, kw_only=True)
class Look:
    """Consecutive new tokens all of which see all of a span that lies before them."""

    start: int
    stop: int
    span: Span


@dataclass(slots=True, kw_only=True)
class Layout:
    """The new tokens of a forward pass: S of them, behind C columns whose keys and values were kept."""

    kept: int
    """C."""
    source_S: Tensor
    """Where each new token comes from: first the prompts' tokens (where they are new), then the branches'."""
    branch_ids: Tensor
    """Tokens of all branches behind each other."""
    positions_3S: Tensor
    runs: list[Run]
    prompts: list[Span]
    """The part of `runs` that belongs to each prompt."""
    predictors_M: Tensor
    """Column of the state that predicts each scored token."""
    targets_M: Tensor
    """Id of each scored token."""
    branches_M: Tensor
    """Which new branch each scored token belongs to, counted over all prompts in order."""
    steps_M: Tensor
    """Place of each scored token within its branch."""
    n_branches: int

    @property
    def size(self) -> int:
        """S."""
        return len(self.source_S)

    def to(self, device: torch.device) -> Layout:
        """Copy to a device."""
        copied = dataclasses.replace(self)
        for field_ in dataclasses.fields(self):
            if isinstance(value := getattr(self, field_.name), Tensor):
                setattr(copied, field_.name, value.to(device))
        return copied

    def looks(self) -> list[Look]:
        """The runs' contexts, those of neighbours joined: a group of completions looks at its prompt once."""
        result: list[Look] = []
        latest: dict[Span, Look] = {}
        for run in self.runs:
            for span in run.context:
                look = latest.get(span)
                if look is not None and look.stop == run.start:
                    look.stop = run.stop
                else:
                    latest[span] = look = Look(start=run.start, stop=run.stop, span=span)
                    result.append(look)
        return result

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


@dataclass(slots=True, kw_only=True)
class Kept:
    """Columns of one prompt and of its completions whose keys and values are there already."""

    prompt: Span
    completions: list[Span] = field(default_factory=list)


def pack(
    trees: Sequence[Sequence[Branch]], positions: Sequence[Tensor], kept: Sequence[Kept] | None = None, columns: int = 0
) -> Layout:
    """Lay prompts and branches behind each other.

    Args:
        trees: The new branches of each of the B prompts.
        positions: Positions (3, L) of each prompt's tokens, without padding, on the CPU.
        kept: Where the prompts (and completions) lie among the columns that were kept; None computes the prompts here.
        columns: Number of columns that were kept.

    Returns:
        The layout, on the CPU.

    Raises:
        ValueError: If a branch is empty, precedes its parent, or leaves it beyond its end, before its first token, or
            inside a video.
    """
    plan = _Plan(columns)
    prompts: list[Span] = []
    first_prompt_token = 0
    for row, (tree, positions_3L) in enumerate(zip(trees, positions, strict=True)):
        first_run = len(plan.runs)
        plan.prompt(positions_3L, None if kept is None else kept[row], first_prompt_token)
        first_prompt_token += positions_3L.shape[1]
        for branch in tree:
            plan.branch(branch)
        prompts.append((first_run, len(plan.runs)))
    return plan.layout(prompts, 0 if kept is not None else first_prompt_token)


@dataclass(slots=True)
class _Node:
    """A prompt or branch that has been laid out."""

    start: int
    size: int
    position: int
    """Of its first token; not used where it is a prompt."""
    context: tuple[Span, ...]
    run: Run | None
    """The run that ends with it; None where its keys were kept."""


class _Plan:
    """A layout that grows prompt by prompt and branch by branch."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.next_column = columns
        self.runs: list[Run] = []
        self.sources: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.branch_ids: list[int] = []
        self.scored: list[tuple[int, int, int, int]] = []
        self.n_branches = 0
        self.positions_3L = torch.zeros(3, 0)
        self.nodes: list[_Node] = []

    def prompt(self, positions_3L: Tensor, kept: Kept | None, first: int) -> None:
        """Start the next prompt, whose own tokens are new unless they were kept."""
        self.positions_3L = positions_3L
        size = positions_3L.shape[1]
        if kept is None:
            run = self._place(size, (), positions_3L, torch.arange(first, first + size))
            self.nodes = [_Node(run.start, size, 0, (), run)]
            return
        self.nodes = [_Node(kept.prompt[0], size, 0, (), None)]
        follows = self._text_position(size - 1) + 1
        for start, stop in kept.completions:
            self.nodes.append(_Node(start, stop - start, follows, (kept.prompt,), None))

    def branch(self, branch: Branch) -> None:
        """Lay out one branch, and note what predicts its tokens."""
        if not 0 <= branch.parent + 1 < len(self.nodes):
            raise ValueError(
                f"A branch names the parent {branch.parent}, and {len(self.nodes) - 1} branches come before it; "
                "expected one of those, or PROMPT."
            )
        parent = self.nodes[branch.parent + 1]
        at = parent.size if branch.at is None else branch.at
        if not 0 < at <= parent.size or not branch.ids:
            raise ValueError(
                f"A branch of {len(branch.ids)} tokens leaves its parent after token {at} of {parent.size}; "
                f"expected 1 to {parent.size} and at least one token."
            )
        position = self._text_position(at - 1) + 1 if branch.parent == PROMPT else parent.position + at
        size, previous = len(branch.ids), parent.start + at - 1
        context = _joined((*parent.context, (parent.start, parent.start + at)))
        source = torch.arange(len(self.branch_ids), len(self.branch_ids) + size)
        # The first branch that follows all of its parent continues the parent's run: a plain row stays one run.
        continued = parent.run if parent.run is not None and previous + 1 == self.next_column else None
        run = self._place(size, context, torch.arange(position, position + size).expand(3, -1), -1 - source, continued)
        self.branch_ids += branch.ids
        if branch.scored:
            # The first token is predicted by the last one before it, in whichever branch (or prompt) that is.
            start = self.next_column - size
            for step, target in enumerate(branch.ids):
                self.scored.append((start + step - 1 if step else previous, target, self.n_branches, step))
        self.n_branches += 1
        self.nodes.append(_Node(self.next_column - size, size, position, context, run))

    def layout(self, prompts: list[Span], n_prompt_tokens: int) -> Layout:
        """What has been laid out."""
        source = torch.cat([*self.sources, torch.zeros(0, dtype=torch.long)])
        predictors_M, targets_M, branches_M, steps_M = torch.tensor(self.scored, dtype=torch.long).view(-1, 4).unbind(1)
        return Layout(
            kept=self.columns,
            source_S=torch.where(source < 0, n_prompt_tokens - 1 - source, source),
            branch_ids=torch.tensor(self.branch_ids, dtype=torch.long),
            positions_3S=torch.cat([*self.positions, torch.zeros(3, 0, dtype=torch.long)], dim=1),
            runs=self.runs,
            prompts=prompts,
            predictors_M=predictors_M,
            targets_M=targets_M,
            branches_M=branches_M,
            steps_M=steps_M,
            n_branches=self.n_branches,
        )

    def _place(
        self, size: int, context: tuple[Span, ...], positions_3L: Tensor, source: Tensor, continued: Run | None = None
    ) -> Run:
        start, self.next_column = self.next_column, self.next_column + size
        self.sources.append(source)
        self.positions.append(positions_3L)
        if continued is not None:
            continued.stop = self.next_column
            return continued
        self.runs.append(Run(start=start, stop=self.next_column, context=context))
        return self.runs[-1]

    def _text_position(self, token: int) -> int:
        """Position of a token of the prompt. Branches leave the prompt in its text, where the three axes agree."""
        axes = self.positions_3L[:, token].tolist()
        if len(set(axes)) > 1:
            raise ValueError(
                f"A branch leaves its prompt inside a video, after the token at {axes}; expected a place in its text."
            )
        return int(axes[0])


def _joined(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Spans in order, neighbours joined."""
    *before, last = spans
    if before and before[-1][1] == last[0]:
        return (*before[:-1], (before[-1][0], last[1]))
    return spans
