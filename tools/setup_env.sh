#!/usr/bin/env bash
# Make the environment that everything here runs in, or complete one.
#
# Run: make setup      (make demo and make test do it first)
#      FAMILY=openmmlab VENV=.venv-openmmlab bash tools/setup_env.sh
#
# Safe to interrupt and to repeat: each step skips what is there, and the stamp
# which says that all is there is written last. Environment variables:
#   PYTHON      interpreter to build on (default: python3)
#   VENV        where to build (default: .venv)
#   FAMILY      onedl: the maintained OpenMMLab packages, openmmlab: the
#               original ones (default: onedl)
#   OPS         of the original family. 1: mmcv with its ops, and mmdet; 0:
#               mmcv-lite, which is not compiled (default: 0)
#   FORCE_CUDA  1: compile mmcv's GPU ops, 0: do not (default: 1 if a GPU and
#               nvcc are found)
#   MAX_JOBS    compilers at a time (default: number of cores)
# Those of pip (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are respected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
FAMILY=${FAMILY:-onedl}
# What the family has of its own: the name of its mmcv, the end of the names
# of its requirements, the newest Python of its torch, the target that is for it.
case $FAMILY in
    onedl) OPS=1 mmcv=onedl-mmcv own='' newest='' target=setup ;;
    openmmlab)
        OPS=${OPS:-0} mmcv=mmcv own=-openmmlab newest=11
        target=test-openmmlab ;;
    *) echo "FAMILY is onedl or openmmlab, but was $FAMILY" >&2; exit 1 ;;
esac
stamp=$VENV/.cyborgs_setup$own

fail() {
    printf '\nSet-up failed: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}

# Of all that the environment is made from, this folder's place included: an
# editable install points at it.
fingerprint() {
    { pwd -P; echo "$OPS"; cat requirements/*.txt setup.py tools/setup_env.sh; } |
        sha256sum | cut -d ' ' -f 1
}

ready() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] &&
        [ -e cyborgs_plugin/.mim/model-index.yml ] &&
        [ -x "$VENV/bin/python" ]
}

if ready; then
    exit 0
fi

# Two set-ups in one folder would write over one another.
if command -v flock >/dev/null; then
    exec 9<.
    if ! flock -n 9; then
        echo 'Another set-up is at work in this folder; waiting for it.'
        flock 9
        if ready; then
            exit 0
        fi
    fi
fi

SECONDS=0

command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON." \
    'Install Python 3.11, or name another: make setup PYTHON=/path/to/python'
version=$("$PYTHON" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$PYTHON is Python $version; 3.10 or newer is needed (tried: 3.11)." \
        "Name another: make $target PYTHON=/path/to/python3.11"
if [ -n "$newest" ]; then
    "$PYTHON" -c "import sys; sys.exit(sys.version_info[1] > $newest)" ||
        fail "$PYTHON is Python $version; $(grep -m 1 ^torch= \
            "requirements/torch$own.txt") is for 3.$newest and older." \
            "Name another: make $target PYTHON=/path/to/python3.$newest"
fi
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON ($version) has no venv module." \
        'Debian and Ubuntu: apt-get install python3-venv'

for other in '' -openmmlab; do
    [ "$other" = "$own" ] || [ ! -e "$VENV/.cyborgs_setup$other" ] ||
        fail "$VENV is that of the other family of OpenMMLab packages, whose \
files have the same names." \
            "Name another folder: make $target VENV=/another/folder"
done

mkdir -p "$VENV"
if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    free=$(df -Pk "$VENV" | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge 12 ] ||
        fail "$free GB of disk are free for $VENV; 12 are needed." \
            "Make room, or build elsewhere: make $target VENV=/path/with/room"
    echo "Setting up $VENV with Python $version. Without a cache this takes 5"
    echo "to $((5 + 10 * OPS)) minutes: 3 GB of downloads\
$([ "$OPS" = 0 ] || echo ', and mmcv is compiled')."
fi

step() { printf '\n[%s] %s\n' "$1" "$2"; }

step 1/5 'virtual environment'
if ! "$VENV/bin/python" -m pip --version 2>/dev/null; then
    "$PYTHON" -m venv "$VENV"
fi
python=$(cd "$VENV" && pwd)/bin/python

# A folder of wheels beside the repository spares the mmcv build.
wheels=()
if [ -d ../shared/wheels ]; then
    wheels=(--find-links "$(cd ../shared/wheels && pwd)")
fi
pip_install() {
    set -- "$python" -m pip install --disable-pip-version-check \
        "${wheels[@]}" --constraint "requirements/torch$own.txt" \
        --constraint "requirements/constraints$own.txt" "$@"
    # pip draws its progress on a terminal only; elsewhere leave out the chaff.
    if [ -t 1 ]; then
        "$@"
    else
        "$@" | { grep -v '^Requirement already satisfied' || true; }
    fi
}

step 2/5 'torch and torchvision'
pip_install -r "requirements/torch$own.txt" ||
    fail 'pip could not install torch (see above).' \
        'The same command again resumes here.'

toolbox=requirements/$FAMILY.txt
if [ "$OPS" = 1 ]; then
    step 3/5 'mmengine, mmcv with its ops, mmpretrain'
else
    step 3/5 'mmengine, mmcv without its ops, mmpretrain'
    sed 's/^mmcv>/mmcv-lite>/' "$toolbox" > "$VENV/toolbox.txt"
    toolbox=$VENV/toolbox.txt
fi
# Both install files of the same names, and pip keeps what is there.
if [ "$FAMILY" = openmmlab ]; then
    [ "$OPS" = 1 ] && unwanted=mmcv-lite || unwanted='mmcv mmdet mmsegmentation'
    # shellcheck disable=SC2086
    "$python" -m pip uninstall --quiet --yes $unwanted 2>/dev/null
fi
if [ "$OPS" = 1 ] && ! "$python" -c 'from mmcv.ops import nms' 2>/dev/null; then
    pip_install -r requirements/build.txt ||
        fail 'pip could not install requirements/build.txt (see above).'
fi
if [ -z "${FORCE_CUDA:-}" ]; then
    FORCE_CUDA=0
    if command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        FORCE_CUDA=1
    fi
fi
# Wheels that lie about, in pip's cache too, have no GPU ops.
build=()
if [ "$FORCE_CUDA" = 1 ]; then
    build=(--no-cache-dir --no-binary "$mmcv")
fi
# Without debug symbols the build needs less memory and a tenth of the disk.
install_toolbox() {
    FORCE_CUDA=$FORCE_CUDA MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        CFLAGS="${CFLAGS:-} -g0" CXXFLAGS="${CXXFLAGS:-} -g0" \
        pip_install --no-build-isolation "${build[@]}" "$@" ||
        fail 'pip could not install the OpenMMLab packages (see above).' \
            'If compiling mmcv failed, for want of' \
            '    a compiler or Python.h: apt-get install g++ python3-dev' \
            "    memory: make $target MAX_JOBS=1" \
            "    a CUDA toolkit that fits torch: make $target FORCE_CUDA=0"
}
install_toolbox -r "$toolbox"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
if [ "$OPS" = 1 ] && ! compgen -G "$site/mmcv/_ext*" >/dev/null; then
    echo "The cache of pip had $mmcv without its ops, as a build in isolation"
    echo 'leaves it: compiling it, 10 minutes on 2 cores.'
    "$python" -m pip cache remove "${mmcv/-/_}" || true
    install_toolbox --force-reinstall --no-deps \
        "$(grep -m 1 "^$mmcv[=<>]" "$toolbox")"
fi

step 4/5 'detectors, segmentors, requirements of running, testing and lint'
downstream=()
if [ "$OPS" = 1 ]; then
    downstream=(-r "requirements/transfer$own.txt"
        -r "requirements/segmentation$own.txt")
fi
pip_install -r requirements/runtime.txt "${downstream[@]}" \
    -r requirements/dev.txt ||
    fail 'pip could not install the requirements (see above).' \
        'The same command again resumes here.'

# Both builds of OpenCV come in, and the one written last wins; only the
# headless one needs no graphics libraries of the system.
if ! "$python" -c 'import cv2' 2>/dev/null; then
    echo 'import cv2 fails: trying the headless build of OpenCV.'
    headless=$(grep -o '^opencv-python-headless==[0-9.]*' \
        "requirements/constraints$own.txt")
    pip_install --force-reinstall --no-deps "$headless" || true
fi
error=$("$python" -c 'import cv2' 2>&1) ||
    fail "import cv2: ${error##*$'\n'}" \
        'Debian and Ubuntu: apt-get install libgl1 libglib2.0-0' \
        'or use the headless build, which needs neither:' \
        "    $python -m pip uninstall -y opencv-python" \
        "    $python -m pip install --force-reinstall opencv-python-headless"

if [ "$OPS" = 1 ]; then
    error=$("$python" -c 'from mmcv.ops import nms' 2>&1) ||
        fail "mmcv has no ops that load: ${error##*$'\n'}" \
            'Build it again (10 minutes on 2 cores):' \
            "    $python -m pip uninstall -y $mmcv" \
            "    $python -m pip cache remove ${mmcv/-/_}" \
            "    make $target$([ -z "$own" ] || echo ' OPS=1')"
fi

step 5/5 'this package, editable'
# Built apart, by the setuptools of build.txt: openmim, where installed, brings
# one that is too old. pip 25.3 renamed the variable.
PIP_CONSTRAINT=requirements/build.txt \
    PIP_BUILD_CONSTRAINT=requirements/build.txt \
    pip_install --no-deps --use-pep517 --editable . ||
    fail 'pip could not install this package (see above).'
error=$(cd / && "$python" -c 'import cyborgs_plugin' 2>&1) ||
    fail 'import cyborgs_plugin:' "$error"

fingerprint > "$stamp"
versions=$("$python" -c 'import mmcv, mmpretrain, torch
print(f"torch {torch.__version__}, mmcv {mmcv.__version__}, mmpretrain "
      f"{mmpretrain.__version__}, GPU: {torch.cuda.is_available()}")' |
    tail -n 1)
cat <<EOF

Set-up done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  where     $VENV  ($versions)
EOF
if [ -z "$own" ]; then
    echo '  next      make demo    the whole method, small'
    echo '            make test    all tests'
else
    echo "  next      make $target    all tests that apply"
fi
echo "            . $VENV/bin/activate    to run tools/ and configs/ yourself"
