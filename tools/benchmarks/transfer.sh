#!/usr/bin/env bash
# One downstream task from one checkpoint, from start to table:
#   bash tools/benchmarks/transfer.sh TASK CHECKPOINT [GPUS [ARGUMENTS]]
# TASK        coco-1x coco-2x coco-c4 lvis voc dino coco-mini imagenet-linear
#             rtmdet-tiny rtmdet-s rtmdet-ins-tiny yolox-s
#             voc-seg voc-seg-d16 cityscapes cityscapes-d16 ade own-masks,
#             or frozen: voc07-svm imagenet-knn probes
# CHECKPOINT  a training checkpoint or a published backbone (.pth), or
#             "random" or "supervised" for the twins
# GPUS        1 by default; 0 and 1 start one process
# ARGUMENTS   go to the trainer (--cfg-options ..., --amp) or the benchmark
# SEED=0, WORK=work_dirs/transfer and PYTHON=python can be set; so can
# COCO_ROOT, LVIS_ROOT, VOC_ROOT, IMAGENET_ROOT, CITYSCAPES_ROOT, ADE_ROOT
# (data/coco and so on), of own-masks MASKS_ROOT, MASKS_CLASSES and IMAGE_SUFFIX,
# and NAME, how the run is called. MIM=1 trains by "mim train", with nothing of ours.
# Paths are relative to the folder that it is called from.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/s/^# \?//p}' "$root/tools/benchmarks/transfer.sh" >&2; exit 2; }
TASK=$1
CHECKPOINT=$2
GPUS=${3:-1}
REST=("${@:4}")
SEED=${SEED:-0}
WORK=${WORK:-work_dirs/transfer}
PYTHON=${PYTHON:-python}
unset BACKBONE

# The file whose keys name their architecture.
start=cyborgs-pre
case $CHECKPOINT in
    random | supervised) start=$CHECKPOINT ;;
    *-backbone-????????.pth) export BACKBONE=$CHECKPOINT ;;
    *)
        said=$("$PYTHON" "$root/tools/model_converters/publish_backbone.py" "$CHECKPOINT")
        echo "$said"
        BACKBONE=$(tail -n 1 <<<"$said")
        export BACKBONE
        ;;
esac
name=${BACKBONE:-$CHECKPOINT}
NAME=${NAME:-$(basename "${name%.pth}")}
out=$WORK/$TASK/$NAME/seed$SEED

frozen() {  # SCRIPT ARGUMENTS
    local source=${BACKBONE:-}
    [ $start = supervised ] && { echo "$TASK takes a file, or random" >&2; exit 2; }
    [ $start = random ] && source=${ARCH:-resnet50}
    "$PYTHON" "$root/tools/benchmarks/$1" "$source" --seed "$SEED" \
        --out "$out/$TASK.json" "${@:2}" "${REST[@]}"
}

package=mmdet
config=
case $TASK in
    coco-1x) config=mask-rcnn_r50_fpn_${start}_1x_coco ;;
    coco-2x) config=mask-rcnn_r50_fpn_${start}_2x_coco ;;
    coco-c4) config=mask-rcnn_r50-c4_${start}_1x_coco ;;
    lvis) config=mask-rcnn_r50_fpn_${start}_2x_lvis-v1 ;;
    voc) config=faster-rcnn_r50-c4_${start}_24k_voc0712 ;;
    dino) config=dino-4scale_r50_${start}_12e_coco ;;
    rtmdet-tiny | rtmdet-s | rtmdet-ins-tiny | yolox-s)
        config=${TASK//-/_}; config=${config/rtmdet_ins/rtmdet-ins}_${start}_300e_coco ;;
    coco-mini) config=mask-rcnn_r18_fpn_${start}_coco-mini ;;
    imagenet-linear) config=resnet50_${start}_linear_imagenet package=mmpretrain ;;
    voc-seg) config=fcn_r50-d8_${start}_20k_voc12aug package=mmseg ;;
    voc-seg-d16) config=fcn-d6_r50-d16_${start}_30k_voc12aug package=mmseg ;;
    cityscapes) config=fcn_r50-d8_${start}_40k_cityscapes package=mmseg ;;
    cityscapes-d16) config=fcn-d6_r50-d16_${start}_90k_cityscapes package=mmseg ;;
    ade) config=fcn_r50-d8_${start}_80k_ade20k package=mmseg ;;
    own-masks) config=fpn_r18_${start}_own-masks package=mmseg ;;
    voc07-svm) frozen voc07_svm.py --voc-root "${VOC_ROOT:-data/VOCdevkit}" ;;
    imagenet-knn) frozen knn_imagenet.py --root "${IMAGENET_ROOT:-data/imagenet}" ;;
    probes) frozen frozen_probes.py --root "${COCO_ROOT:-data/coco}" ;;
    *) echo "unknown task $TASK; see the head of tools/benchmarks/transfer.sh" >&2; exit 2 ;;
esac

if [ -n "$config" ]; then
    config=$root/configs/transfer/$config.py
    [ -f "$config" ] || { echo "$TASK has no config from $start: $config" >&2; exit 2; }
    # What mmengine only logs stops here.
    "$PYTHON" "$root/tools/model_converters/check_backbone.py" "$config"
    options=(randomness.seed="$SEED")
    case $TASK in  # pycocotools scores these again
        coco-* | dino | rtmdet-* | yolox-*) options+=(val_evaluator.outfile_prefix="$out/detections") ;;
    esac
    # --cfg-options may be given once: put ours behind the user's first one
    arguments=()
    given=
    for word in "${REST[@]}"; do
        arguments+=("$word")
        [ "$word" = --cfg-options ] && given=1 && arguments+=("${options[@]}")
    done
    [ -n "$given" ] || arguments+=(--cfg-options "${options[@]}")
    if [ -n "${MIM:-}" ]; then
        launcher=none
        [ "$GPUS" -gt 1 ] && launcher=pytorch
        # mim wants the name of the distribution, which differs by family
        found=$("$PYTHON" -c "from importlib.metadata import \
packages_distributions as names; print(names()['$package'][0])")
        mim train "$found" "$config" --gpus "$GPUS" --launcher $launcher \
            --work-dir "$out" "${arguments[@]}"
    elif [ "$GPUS" -gt 1 ]; then
        bash "$root/tools/dist_train.sh" "$config" "$GPUS" --work-dir "$out" "${arguments[@]}"
    else
        "$PYTHON" "$root/tools/train.py" "$config" --work-dir "$out" "${arguments[@]}"
    fi
fi
"$PYTHON" "$root/tools/benchmarks/collect.py" "$WORK"
