"""The committed code of the .proto files is theirs, and its messages can be sent on by Ray."""

import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from specrouter_dist.links._proto import link_pb2
from specrouter_dist.serving._proto import service_pb2

PROTOS = Path(__file__).parents[2] / "protos"


@pytest.mark.parametrize(
    ("name", "module"),
    [("specrouter/v1/link.proto", link_pb2), ("specrouter/v1/service.proto", service_pb2)],
)
def test_the_generated_code_describes_the_proto_file(
    tmp_path: Path, name: str, module: ModuleType
) -> None:
    made = tmp_path / "made.binpb"
    command = [f"-I{PROTOS}", f"--descriptor_set_out={made}", name]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True)
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    # Of the descriptors, not of the text: that differs between versions of the compiler.
    assert module.DESCRIPTOR.name == name
    actual = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    expected.ClearField("source_code_info")
    forget_json_names(expected.message_type)
    forget_json_names(actual.message_type)
    assert actual == expected


def forget_json_names(messages: Iterable[descriptor_pb2.DescriptorProto]) -> None:
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        forget_json_names(message.nested_type)


def test_messages_can_be_pickled() -> None:
    message = service_pb2.GenerateRequest(prompt="x", logit_bias={3: 1.0})
    assert pickle.loads(pickle.dumps(message)) == message
