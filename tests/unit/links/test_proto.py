"""The committed code of the node-to-node link is that of its .proto file."""

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

from specrouter_dist.links._proto import link_pb2

PROTOS = Path(__file__).parents[3] / "protos"


def test_the_generated_code_describes_the_proto_file(tmp_path: Path) -> None:
    made = tmp_path / "link.binpb"
    name = "specrouter/v1/link.proto"
    command = [f"-I{PROTOS}", f"--descriptor_set_out={made}", name]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True)
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file
    # Of the descriptors, not of the text: that differs between versions of the compiler.
    assert link_pb2.DESCRIPTOR.name == name
    actual = descriptor_pb2.FileDescriptorProto.FromString(link_pb2.DESCRIPTOR.serialized_pb)
    expected.ClearField("source_code_info")
    for message in (*expected.message_type, *actual.message_type):
        for field in message.field:
            field.ClearField("json_name")
    assert actual == expected
