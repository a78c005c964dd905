"""Messages of the Open Inference Protocol's gRPC service, as its published proto defines them.

They are built from a table instead of generated code: the same on the wire, and readable. What this server neither reads nor
writes (parameters, properties) is left out, as protobuf skips fields that it does not know.
Source: https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
"""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_TENSOR = "string name = 1, string datatype = 2, repeated int64 shape = 3"
FIELDS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1, string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1, string version = 2, repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1, string version = 2",
    "ModelMetadataResponse": "string name = 1, repeated string versions = 2, string platform = 3, repeated ModelMetadataResponse.TensorMetadata inputs = 4, "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": "string model_name = 1, string model_version = 2, string id = 3, repeated ModelInferRequest.InferInputTensor inputs = 5, "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6, repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": _TENSOR + ", InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1",
    "ModelInferResponse": "string model_name = 1, string model_version = 2, string id = 3, repeated ModelInferResponse.InferOutputTensor outputs = 5, "
    "repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": _TENSOR + ", InferTensorContents contents = 5",
    "InferTensorContents": "repeated bool bool_contents = 1, repeated int32 int_contents = 2, repeated int64 int64_contents = 3, repeated uint32 uint_contents = 4, "
    "repeated uint64 uint64_contents = 5, repeated float fp32_contents = 6, repeated double fp64_contents = 7, repeated bytes bytes_contents = 8",
}  # fmt: skip


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for name, fields in FIELDS.items():
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        for field in filter(None, fields.split(", ")):
            kind, label, _, number = field.removeprefix("repeated ").split(" ")
            added = made[name].field.add(
                name=label, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL
            )
            if field.startswith("repeated "):
                added.label = FieldDescriptorProto.LABEL_REPEATED
            if kind in FIELDS:
                added.type, added.type_name = (
                    FieldDescriptorProto.TYPE_MESSAGE,
                    f".{PACKAGE}.{kind}",
                )
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    return file


def _classes() -> dict[str, type[Message]]:
    # A pool of its own: other libraries in this process may define the same names.
    pool = DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in FIELDS
        if "." not in name
    }


MESSAGES = _classes()
