"""Every kept result of bench/: what it says, its files, and the commands that make them again."""

from __future__ import annotations

from kept_result import Result
from results_levers import LEVERS, MATERIAL

PEERS = "an environment with onnxsim 0.8.1, onnxslim and torch-pruning 1.6.1 (`--peers`)"
COUNTER = "what bench/arm_setup.py and bench/arm_counter.sh set up"
LOOPS = (
    "ultralytics_loop.py yolov8n --out RESULTS",
    "smaller_models.py --out RESULTS --picture PICTURE",
    "ultralytics_peers.py --out bench/results/ultralytics_peers.md",
    "ultralytics_images.py --data BCCD --work WORK --out bench/results/ultralytics_images.md",
)
REPOSITORIES = ("yolov5_train", "yolov7_rows")
BENCHMARKS = (
    Result(
        "Verdicts",
        "whether a pruned detector is called alive, beside the mAP50 it has left",
        ("verdicts*",),
        ("python bench/verdicts.py",),
    ),
    Result(
        "Trained or not",
        "how a network that was never trained is told, which pruning cannot hurt",
        ("untrained*",),
        ("python bench/untrained.py",),
        MATERIAL,
    ),
    Result(
        "Another input size",
        "the zoo, exported for one size and made for another, beside what the exporter writes for that",
        ("other_size*",),
        ("python bench/other_size.py",),
    ),
    Result(
        "Table A: widths",
        "YOLOv5n with 70 % of its γ removed, on every grid of widths, against the published case",
        ("table-a*",),
        ("python bench/table_a.py --threads 1 2", "python bench/table_a.py --avx2 LAUNCHER"),
    ),
    Result(
        "Widths and parts on x86",
        "networks pruned alike on every grid of widths, with and without the pass `conv-before-split`",
        ("snap_x86*",),
        ("python bench/snap_x86.py", "python bench/snap_x86.py --avx2 LAUNCHER"),
    ),
    Result(
        "Table B: other pruners",
        "latency of YOLOv5n and YOLOv8n when every tool removes equally many parameters",
        ("table_b*",),
        ("python bench/table_b.py --peers PEERS/bin/python",),
        PEERS,
    ),
    Result(
        "Table C: fusion alone",
        "nothing pruned: against OnnxSlim, onnxsim, onnxruntime, ncnnoptimize and pnnx, with ablations",
        ("table_c*",),
        ("python bench/table_c.py --peers PEERS/bin/python --pnnx PNNX --ncnnoptimize NCNNOPTIMIZE",),
        f"{PEERS}; pnnx from PyPI; ncnnoptimize built from ncnn's sources; tools that are not given are left out",
    ),
    Result(
        "Masks",
        "what `torch.nn.utils.prune` gains (nothing), and what removing the masked channels gains",
        ("masks*",),
        ("python bench/masks.py --threads 1 2",),
    ),
    Result(
        "Accuracy without training",
        "mAP by importance, compensation and allocation, at 10 to 70 % fewer MACs; other pruners; other heads",
        ("accuracy*", "kinds_of_heads*", "ways_to_choose*"),
        (
            "python bench/accuracy.py --peers PEERS/bin/python",
            "python bench/kinds_of_heads.py",
            "python bench/ways_to_choose.py",
        ),
        f"{MATERIAL}; {PEERS}",
    ),
    *LEVERS,
    Result(
        "Frictions of newcomers",
        "what those who tried this first met, and what the same command answers now",
        ("frictions*",),
        ("python bench/frictions.py",),
    ),
    Result(
        "Commands of README and docs",
        "every command, copied out of its page and run",
        ("documented_commands*",),
        ("python bench/documented_commands.py",),
        MATERIAL,
    ),
    Result(
        "A fresh environment",
        "installing, and the first command of README and of each quickstart, timed",
        ("fresh_install*",),
        ("python bench/fresh_install.py",),
    ),
    Result(
        "Depth and width",
        "whole blocks as candidates beside widths, against widths alone, at one limit",
        ("depth*", "table-a-depth*"),
        ("python bench/depth.py", "python bench/depth_exhaustive.py", "python bench/depth_sparse.py structured"),
        MATERIAL,
        "passes/drop-blocks.md",
    ),
    Result(
        "The loop in Ultralytics",
        "train, sparsify, prune, fine-tune and compile, each stage measured; smaller models instead; what was tried",
        ("ultralytics-loop*", "smaller_models*", "ultralytics_peers*", "ultralytics_images*"),
        tuple(f"python bench/{name}" for name in LOOPS),
        "`ultralytics`, and BCCD as a data.yaml",
        "finetuning.md",
    ),
    Result(
        "In YOLOv5's and YOLOv7's own code",
        "a pruned YOLOv5n in train.py, val.py and detect.py, a YOLOv7-tiny in its parser; with their old yaml, too",
        ("yolov5_train*", "yolov7_rows*"),
        tuple(f"python bench/{n}.py CHECKOUT --python PYTHON --out bench/results/{n}.md" for n in REPOSITORIES),
        "a clone of ultralytics/yolov5 or WongKinYiu/yolov7 and an environment with its requirements",
        "finetuning.md",
    ),
    Result(
        "What an installation takes",
        "megabytes on disk, package by package, without torch",
        ("install_size*",),
        ("python bench/install_size.py",),
        page="ci.md",
    ),
    Result(
        "Distillation without labels",
        "a network reconstructed on images, and taught on the same ones besides, at several rates",
        ("distil-*.json", "compensate*"),
        (
            "python bench/compensate.py",
            "python bench/distil.py yolov5n.pt --data coco-val128/data.yaml --work /tmp/distil "
            "--out bench/results/distil-yolov5n.json",
        ),
        MATERIAL,
        "finetuning.md",
    ),
    Result(
        "Fine-tuning without labels",
        "the network that was cut teaches the one that is left",
        ("finetune-*.json",),
        (
            "python bench/finetune_demo.py models/bccd-sparse.onnx --data bccd/data.yaml "
            "--dense models/bccd-dense.onnx --prune 0.7 --epochs 5 --out bench/results/finetune-bccd.json",
            "python bench/finetune_demo.py models/bccd-dense.onnx --data bccd/data.yaml "
            "--dense models/bccd-dense.onnx --prune 0.2 --epochs 10 --out bench/results/finetune-bccd-dense.json",
            "python bench/finetune_demo.py models/digits-sparse.onnx --data digits-data/data.yaml --no-flips "
            "--dense models/digits-dense.onnx --prune 0.7 --epochs 3 --out bench/results/finetune-digits.json",
        ),
        "BCCD as a data.yaml; the digits by `onnxslim_yolo.models.demo.train_digits` (`pip install '.[demo]'`)",
        "results/finetune.md",
    ),
    Result(
        "Networks on ARM",
        "outputs and detections on emulated cores of a Pi 5 and a Pi 4, in fp16, fp32 and bf16 arithmetic",
        ("arm_accuracy*",),
        ("python bench/arm_setup.py", "python bench/arm_accuracy.py"),
        f"{MATERIAL}; instructions where bench/arm_counter.sh has built their counter",
    ),
    Result(
        "Layers on ARM",
        "every kind of layer by width and size on an emulated core, in search of kernels that are wrong",
        ("arm_layers*",),
        ("python bench/arm_setup.py", "python bench/arm_layers.py"),
    ),
    Result(
        "Published times on ARM",
        "ncnn's published times of a Pi 4 and a Pi 5 against counted instructions of the same networks",
        ("arm_latency*",),
        (
            "python bench/arm_latency.py count a76",
            "python bench/arm_latency.py count a72",
            "python bench/arm_latency.py fit --write",
        ),
        f"{COUNTER}, and a checkout of ncnn",
    ),
    Result(
        "Counted layers on ARM",
        "layers counted one by one: the tables of a Pi 5 and a Pi 4 against whole networks, and the formula for others",
        ("arm_formula*", "arm_tables*"),
        (
            "python bench/arm_tables.py count a76 FastestDet.onnx yolo-fastest-1.1.cfg@320 yolov5n@320 yolov8n@320 "
            "yolo11n@320 v5lite-s-coco.pt@320",
            "python bench/arm_tables.py write a76 FastestDet.onnx yolo-fastest-1.1.cfg@320 yolov5n@320 yolov8n@320 "
            "yolo11n@320 v5lite-s-coco.pt@320",
            "python bench/arm_tables.py judge",
        ),
        f"{COUNTER}; {MATERIAL}",
    ),
    Result(
        "Where instructions go on ARM",
        "whole networks on a Pi 5 and a Pi 4 blob by blob: what multiplies, what ncnn's calls take, what decodes boxes",
        ("arm_blobs*",),
        (
            "python bench/arm_blobs.py count a76",
            "python bench/arm_blobs.py count a72",
            "python bench/arm_blobs.py report",
        ),
        f"{COUNTER}, and a checkout of ncnn",
    ),
    Result(
        "Other boards than a Pi 5 and a Pi 4",
        "published times of a Pi 3, Zero 2, RK3588, RK3566 and phones against the model of the Pi that stands for them",
        ("arm_boards*",),
        ("python bench/arm_boards.py --write",),
        "a checkout of ncnn",
    ),
    Result(
        "Widths on ARM",
        "`--snap auto` for a Pi 5 and a Pi 4 against fixed grids, at equal importance kept, in counted instructions",
        ("arm_snap*",),
        (
            "python bench/arm_snap.py count a76 yolov8n@320",
            "python bench/arm_snap.py score a72 v5lite-s-coco.pt@320 --prune 0.1 --data D --calib C",
            "python bench/arm_snap.py report",
        ),
        f"{COUNTER}; for YOLOv5n and FastestDet {MATERIAL}",
    ),
    Result(
        "Compiled for a board and run there",
        "`compile --for pi5|pi4 --run-on` an emulated core: what the pair computes there, as the report has it",
        ("arm_compile*",),
        ("python bench/arm_compile.py WORK",),
        f"bench/arm_setup.py; {MATERIAL}",
    ),
    Result(
        "Rewrites on ARM",
        "what each rewrite of unpruned networks is worth on a Pi 5 and a Pi 4, in counted instructions",
        ("arm_rewrites*",),
        ("python bench/arm_rewrites.py a76", "python bench/arm_rewrites.py a72"),
        COUNTER,
    ),
    Result(
        "Convolving before enlarging",
        "networks compiled without the pass `conv-before-resize` and with it",
        ("conv_before_resize*",),
        ("python bench/conv_before_resize.py --networks yolov5n yolov8n yolo11n yolov7-tiny",),
    ),
    Result(
        "A 6×6 stem in ncnn",
        "as one convolution, behind ncnn's Reorg, or over the image's phases",
        ("ncnn_stem*",),
        ("python bench/ncnn_stem.py --threads 1 2",),
    ),
    Result(
        "What disturbs a measurement",
        "how OpenMP's threads wait, and whether freed memory is kept",
        ("measuring*",),
        ("python bench/measuring.py",),
    ),
    Result(
        "ncnn files against pnnx's",
        "latency, error and conversion time of both, network by network",
        ("ncnn_vs_pnnx*",),
        (
            "python bench/ncnn_vs_pnnx.py --pnnx PNNX --zoo NAMES --json bench/results/ncnn_vs_pnnx-1.json",
            "python bench/ncnn_vs_pnnx.py --pnnx PNNX --zoo NAMES --threads 2 --json bench/results/ncnn_vs_pnnx-2.json",
            "python bench/ncnn_vs_pnnx.py --pnnx PNNX --table bench/results/ncnn_vs_pnnx-1.json "
            "bench/results/ncnn_vs_pnnx-2.json",
        ),
        "pnnx from PyPI, in an environment of its own; NAMES are the table's",
    ),
    Result(
        "Every architecture in ncnn",
        "does it convert, load and agree with onnxruntime, at three sizes and four kinds of widths",
        ("ncnn_zoo*",),
        ("python bench/ncnn_zoo.py --write",),
    ),
    Result(
        "Support",
        "how much of each architecture can be pruned, and what is frozen",
        ("support.json",),
        ("python bench/support_table.py",),
        page="support.md",
    ),
    Result(
        "Predicted against measured, ncnn",
        "the shipped latency table on random widths of YOLOv5n",
        ("predicted-*-ncnn-*",),
        ("python bench/predicted_vs_measured.py --runtime ncnn [--size 320 --count 12 --rounds 7 --avx2 avx2-python]",),
    ),
    Result(
        "Predicted against measured, onnxruntime",
        "the same for onnxruntime",
        ("predicted-*-onnxruntime-*",),
        ("python bench/predicted_vs_measured.py --runtime onnxruntime",),
    ),
    Result(
        "Compile time",
        "how long compiling takes, how it grows with the network, and what others take",
        ("compile_time*",),
        ("python bench/compile_time.py --peers PEERS/bin/python",),
        PEERS,
    ),
    Result(
        "What a checkpoint takes",
        "memory and CPU of compiling a checkpoint of 22 MB, verified and not",
        ("checkpoint_cost*",),
        ("python bench/checkpoint_cost.py",),
    ),
    Result(
        "Very many nodes",
        "CPU time and memory of reading and compiling chains of 10⁴ and 10⁵ nodes",
        ("many_nodes*",),
        ("python bench/many_nodes.py",),
    ),
    Result(
        "Large detectors and the limits",
        "what large YOLOs take by the estimate, against what is allowed by default",
        ("large_models*",),
        ("python bench/large_models.py",),
    ),
    Result(
        "Dead blocks",
        "a third of the residual branches of whole architectures killed, and what is left of them",
        ("dead_blocks*",),
        ("python bench/dead_blocks.py",),
    ),
    Result(
        "Small files that ask for much",
        "CPU time and memory of compiling files that were made to take a lot of both",
        ("bombs*",),
        ("python bench/bombs.py",),
    ),
    Result(
        "Every operator of ONNX",
        "its own node tests between two convolutions: what is pruned, what is held and why, and whether it is right",
        ("node_tests*",),
        ("python bench/node_tests.py --write",),
    ),
    Result(
        "Random networks",
        "blocks of real forks strung together: the network without the channels equals the one with them masked",
        ("random_graphs*",),
        ("python bench/random_graphs.py --write",),
    ),
    Result(
        "Networks of torchvision and timm",
        "compiled at half their channels, from both of PyTorch's exporters, beside what Torch-Pruning leaves",
        ("strangers*",),
        ("PEERS/bin/python bench/strangers.py",),
    ),
    Result(
        "What LayerNormalization holds",
        "leaving channels out of it: as zeros, written out by the source's count, and as others do; time and error",
        ("layer_norm*",),
        ("python bench/layer_norm.py --write",),
    ),
    Result(
        "What the check notices",
        "models spoiled in one place after the other, in onnxruntime and in ncnn",
        ("mutations*",),
        ("python bench/mutations.py NAMES --weights 12 --ncnn-weights 4 --write",),
    ),
    Result(
        "Mistakes in the code that the tests notice",
        "small changes drawn at random in the analyses, the passes, the writers and the pruning",
        ("code_mutants*",),
        ("python bench/code_mutants.py --count 64 --seed 1", "python bench/code_mutants.py --count 64 --seed 3"),
    ),
    Result(
        "Where operators are named",
        "which files decide by an operator's name, and which only ask the tables",
        ("operator_names*",),
        ("python bench/operator_names.py --list",),
    ),
    Result(
        "What other pruners reach",
        "which layers they can make narrower, and what is left when half of the channels are asked for",
        ("peers_compile*",),
        ("PEERS/bin/python bench/peers_compile.py --keep",),
        PEERS,
    ),
    Result(
        "Post-processing",
        "decoding in logit space against decoding everything",
        ("postprocess*",),
        ("python bench/postprocess.py",),
        MATERIAL,
    ),
    Result(
        "Fuzzing",
        "every reader under damaged files; the fault tests are on the same page",
        ("fuzz.md",),
        (
            "python bench/fuzz_readers.py --inputs 100000 --write",
            "python bench/fuzz_onnx.py --inputs 100000 --write",
            "python bench/fuzz_ncnn.py --inputs 100000 --write",
            "python bench/fuzz_atheris.py --write",
        ),
        "`pip install atheris` for the last one",
        "reliability.md",
    ),
)
