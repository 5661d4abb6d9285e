import pickle
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata

from cair_lightning.clips import Frames, read_clip
from cair_lightning.policies.collation import (
    Collates,
    Collator,
    PromptTooLongError,
    VisionSettings,
    completion_ids,
    refuse_control_tokens,
)
from cair_lightning.prompts import direct_completion, messages, reason_completion
from tests.policies.reference import (
    EXAMPLES,
    SECONDS_PER_GRID,
    VISION,
    build_collator,
    clip_root,
    collate,
    plain_positions,
    processor,
    prompt_ids,
    shared_policy,
)

SEEN, TOLD, WIDE = EXAMPLES


def full_processor_call(example, form) -> BatchFeature:
    """What the checkpoint's processor makes of chat, frames and metadata in one call."""
    text = processor().apply_chat_template(messages(example, form), add_generation_prompt=True)
    if example.clip is None:
        return processor()(text=[text], return_tensors="pt")
    frames = read_clip(clip_root() / example.clip, example.start, example.end, VISION.fps, VISION.max_frames)
    count = len(frames.frames)
    metadata = VideoMetadata(total_num_frames=count, fps=frames.sampled_fps, frames_indices=list(range(count)))
    return processor()(
        text=[text],
        videos=[torch.from_numpy(frames.frames).permute(0, 3, 1, 2)],
        video_metadata=[metadata],
        do_sample_frames=False,
        size={"shortest_edge": VISION.min_pixels, "longest_edge": VISION.max_pixels},
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("form", ["reason", "direct"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.id)
def test_a_prompt_is_what_the_whole_processor_makes_of_it(example, form) -> None:
    got, expected = collate([example], form), full_processor_call(example, form)
    assert got.ids_BL.tolist() == expected["input_ids"].tolist()
    assert got.mask_BL.all()
    if example.clip is None:
        assert (got.patches, got.grids) == (None, [None])
    else:
        assert torch.equal(got.patches, expected["pixel_values_videos"])
        assert got.grids == [tuple(expected["video_grid_thw"][0].tolist())]
        assert Fraction(float(expected["second_per_grid_ts"][0])) == SECONDS_PER_GRID[example.clip]


def test_rows_are_padded_on_the_left_and_their_positions_start_at_the_first_token() -> None:
    prompts = collate()
    lengths = prompts.mask_BL.sum(1).tolist()
    assert len(set(lengths)) == 3
    assert max(lengths) == prompts.ids_BL.shape[1]
    for row, example in enumerate(EXAMPLES):
        padding = prompts.ids_BL.shape[1] - lengths[row]
        assert prompts.mask_BL[row].tolist() == [False] * padding + [True] * lengths[row]
        assert set(prompts.ids_BL[row, :padding].tolist()) <= {processor().tokenizer.pad_token_id}
        assert not prompts.positions_3BL[:, row, :padding].any()
        videos = [] if example.clip is None else [(prompts.grids[row], SECONDS_PER_GRID[example.clip])]
        expected = plain_positions(prompt_ids(prompts, row), prompts_video_id(), videos)
        assert torch.equal(prompts.positions_3BL[:, row, padding:], expected)


def prompts_video_id() -> int:
    return shared_policy().model.config.video_token_id


def test_both_forms_share_everything_up_to_the_fork() -> None:
    reason, direct = collate(form="reason"), collate(form="direct")
    for row in range(len(EXAMPLES)):
        fork = reason.forks[row]
        assert direct.forks[row] == fork
        assert reason.direct_tails[row] == direct.direct_tails[row]
        assert prompt_ids(reason, row)[:fork] + reason.direct_tails[row] == prompt_ids(direct, row)
        assert prompt_ids(reason, row)[fork] != prompt_ids(direct, row)[fork]
        tail = shared_policy().decode(prompt_ids(reason, row)[fork:])
        assert tail.startswith("Reason")


def test_a_taught_completion_ends_with_the_end_of_the_turn() -> None:
    end = processor().tokenizer.convert_tokens_to_ids("<|im_end|>")
    for form, text in (
        ("direct", direct_completion(SEEN.answer)),
        ("reason", reason_completion("she lost.", SEEN.answer)),
    ):
        (taught,) = collate([replace(SEEN, rationale=" she lost.\n")], form, teach=True).completions
        assert taught[-1] == end
        assert shared_policy().decode(taught) == text
    assert collate([SEEN]).completions is None


def test_a_reason_without_a_rationale_is_refused() -> None:
    silent = replace(SEEN, rationale=None)
    with pytest.raises(ValueError, match="Sample 'seen' has no rationale"):
        completion_ids(processor().tokenizer, silent, "reason")
    assert completion_ids(processor().tokenizer, silent, "direct")


def test_a_prompt_over_the_limit_is_refused_with_both_numbers() -> None:
    length = collate([SEEN]).ids_BL.shape[1]
    taught = len(collate([SEEN], teach=True).completions[0])
    assert collate([SEEN], max_tokens=length).ids_BL.shape[1] == length
    with pytest.raises(PromptTooLongError, match=f"'seen' has {length} prompt and 0 .* limit is {length - 1}"):
        collate([SEEN], max_tokens=length - 1)
    with pytest.raises(PromptTooLongError, match=f"has {length} prompt and {taught} completion tokens"):
        collate([SEEN], max_tokens=length + taught - 1, teach=True)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|video_pad|>", "<|endoftext|>", "<|image_pad|>"])
@pytest.mark.parametrize("field", ["question", "context", "candidates", "rationale"])
def test_control_tokens_in_a_text_are_refused(field, token) -> None:
    text = f"a {token} b"
    changed = replace(TOLD, **{field: [*getattr(TOLD, field), text] if field in ("context", "candidates") else text})
    with pytest.raises(ValueError, match=f"'told' holds the control token '{token}'".replace("|", r"\|")):
        collate([changed], teach=True)


def test_brackets_that_are_no_control_token_are_text() -> None:
    refuse_control_tokens(processor().tokenizer, "x", "<reason> <|im_en|> im_end")


@pytest.mark.parametrize(
    ("clip", "start", "reason"),
    [("missing.mp4", None, "no such file"), ("broken.mp4", None, "cannot open"), ("short.mp4", 9.0, "starts at 9 s")],
)
def test_a_clip_that_cannot_be_read_is_replaced_by_a_blank_one_that_does_not_count(clip, start, reason) -> None:
    broken = replace(SEEN, id="gone", clip=clip, start=start)
    prompts = collate([broken, TOLD, SEEN])
    assert prompts.valid_B.tolist() == [False, True, True]
    assert [identifier for identifier, _ in prompts.failures] == ["gone"]
    assert reason in prompts.failures[0][1]
    assert prompts.grids[0] == (1, 4, 4)
    blank = prompts.patches[:16]
    assert (blank.amax(0) - blank.amin(0)).max() < 1e-6  # one colour
    assert torch.equal(prompts.patches[16:], collate([SEEN]).patches)


def test_a_clip_outside_the_root_is_an_error_and_no_failure() -> None:
    with pytest.raises(ValueError, match="Sample 'seen': expected a path below the clip root"):
        collate([replace(SEEN, clip="../short.mp4")])


def test_vision_settings_decide_the_grid() -> None:
    for settings, grid in (
        (VISION, (2, 6, 6)),
        (VisionSettings(fps=2.0, max_frames=4, max_pixels=56 * 56), (2, 4, 4)),
        (VisionSettings(fps=2.0, max_frames=32, max_pixels=56 * 56), (3, 4, 4)),
        (VisionSettings(fps=1.0, max_frames=32, min_pixels=112 * 112), (2, 8, 8)),  # 3 frames round to 2 patches
    ):
        assert collate([WIDE], vision=settings).grids == [grid]


def test_a_pickled_collator_works_alike() -> None:
    collator = build_collator(kept_clips=1)
    collator([(SEEN, "reason")])
    copied = pickle.loads(pickle.dumps(collator))
    for example in (SEEN, WIDE):
        first, second = collator([(example, "reason")]), copied([(example, "reason")])
        assert torch.equal(first.patches, second.patches)
        assert torch.equal(first.ids_BL, second.ids_BL)


def test_kept_clips_are_the_latest_and_no_more_than_asked_for(monkeypatch) -> None:
    read: list[str] = []

    def spy(path, *arguments) -> Frames:
        read.append(path.name)
        return read_clip(path, *arguments)

    monkeypatch.setattr("cair_lightning.policies.collation.read_clip", spy)
    collator = build_collator(kept_clips=2)
    late = replace(SEEN, start=1.0)  # another part of the same file
    for example in (SEEN, WIDE, SEEN, late, WIDE, SEEN):
        collator([(example, "reason")])
    # `late` pushes out WIDE, the one that was not used for longest, and WIDE in turn pushes out SEEN.
    assert read == ["short.mp4", "long.mp4", "short.mp4", "long.mp4", "short.mp4"]
    read.clear()
    forgetful = build_collator()
    for _ in range(2):
        forgetful([(SEEN, "reason")])
    assert read == ["short.mp4"] * 2


def test_a_half_of_a_kept_clip_is_another_clip() -> None:
    collator = build_collator(kept_clips=3)
    whole, left, right, again = (collator([(replace(WIDE, crop=c), "reason")]) for c in (None, "left", "right", None))
    assert torch.equal(whole.patches, again.patches)
    assert left.patches.shape == right.patches.shape
    assert not torch.equal(left.patches, right.patches)
    assert left.grids[0][2] < left.grids[0][1]  # higher than wide
    frames = read_clip(clip_root() / WIDE.clip, None, None, VISION.fps, VISION.max_frames).frames
    half, grid = collator.patcher.cut(frames[:, :, : frames.shape[2] // 2].copy())
    assert torch.equal(left.patches, collator.patcher.floats([half]))
    assert left.grids == [grid]


def test_a_kept_clip_stays_as_it_was() -> None:
    collator = build_collator(kept_clips=3)
    first = collator([(SEEN, "reason"), (replace(SEEN, id="gone", clip="missing.mp4"), "reason")])
    again = collator([(SEEN, "reason"), (replace(SEEN, id="other", clip="missing.mp4"), "reason")])
    assert torch.equal(first.patches, again.patches)
    assert again.valid_B.tolist() == [True, False]
    assert [identifier for identifier, _ in again.failures] == ["other"]


def test_whoever_has_a_collator_method_collates() -> None:
    class Module:
        def collator(self, clips, teach=False, kept_clips=0) -> Collator:
            return build_collator(clips=clips, teach=teach, kept_clips=kept_clips)

    assert isinstance(Module(), Collates)
    assert not isinstance(build_collator(), Collates)
