#!/bin/sh
# The clients' virtual environments: clients/setup.sh [DIRECTORY]
#
# Each client has one of its own, with the version that is known to work; nothing in it is changed.
set -eu

DIRECTORY=${1:-.clients}
PYTHON=${PYTHON:-python3}

. "$(dirname "$0")/../environments.sh"

make_environment lm_eval
# transformers for the tokenizer alone: no torch.
install lm_eval "lm_eval[api]==0.4.13" "transformers==5.24.*"

make_environment aiperf
install aiperf "aiperf==0.13.0"

make_environment locust
install locust "locust==2.47.0"
