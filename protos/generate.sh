#!/usr/bin/env bash
# Generates the committed Python code of the .proto files. The compiler is an old one, since its code refuses
# runtimes of protobuf and grpcio that are older than it is; it gets an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
PROTOC=build/protoc
test -x $PROTOC/bin/python || "${PYTHON:-python3}" -m venv $PROTOC
$PROTOC/bin/python -m pip install --quiet "grpcio-tools==1.74.0" setuptools
OUT=$PROTOC/out
rm -rf $OUT && mkdir -p $OUT
$PROTOC/bin/python -m grpc_tools.protoc -Iprotos --python_out=$OUT --pyi_out=$OUT --grpc_python_out=$OUT \
  specrouter/v1/link.proto specrouter/v1/service.proto
cp $OUT/specrouter/v1/link_pb2.py{,i} specrouter_dist/links/_proto/
cp $OUT/specrouter/v1/service_pb2.pyi specrouter_dist/serving/_proto/
# Imports and pickles follow the path of the .proto file, which is not that of our package.
for NAME in service_pb2 service_pb2_grpc; do
  sed -e 's/^from specrouter\.v1 import/from specrouter_dist.serving._proto import/' \
    -e "s/'specrouter\.v1\.service_pb2'/'specrouter_dist.serving._proto.service_pb2'/" \
    $OUT/specrouter/v1/$NAME.py > specrouter_dist/serving/_proto/$NAME.py
done
