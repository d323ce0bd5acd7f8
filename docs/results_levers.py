"""The kept results of what needs no training: a smaller input, int8, and which of them to choose."""

from __future__ import annotations

from kept_result import Result

MATERIAL = "`../shared/material` (published weights, images of COCO and BCCD), which is not in the repository"
LEVERS = (
    Result(
        "A smaller input, or fewer channels",
        "what a smaller input and pruning cost and save where nothing is trained",
        ("bargain*",),
        ("python bench/bargain.py",),
        MATERIAL,
        page="bargain.md",
    ),
    Result(
        "Which lever to pull",
        "what `advise` answers without labels at 0.9 to 0.7 of the latency, and all that it tried, by mAP and time",
        ("advise*",),
        ("python bench/advise.py",),
        MATERIAL,
        page="advise.md",
    ),
    Result(
        "int8",
        "mAP and measured latency of int8 beside float and onnxruntime's own; codes handed on; on ARM by emulation",
        ("int8.*", "int8_codes*", "int8_equalise*", "arm_int8*"),
        (
            "python bench/int8.py",
            "python bench/int8_codes.py",
            "python bench/int8_equalise.py",
            "python bench/arm_int8.py",
            "python bench/arm_int8_gain.py",
            "python bench/arm_int8_codes.py",
        ),
        MATERIAL,
        page="bargain.md",
    ),
    Result(
        "The zoo in int8",
        "every architecture in int8, in both runtimes: does it load, and compute what its plan says",
        ("int8_zoo*",),
        ("python bench/int8_zoo.py --write",),
    ),
)
