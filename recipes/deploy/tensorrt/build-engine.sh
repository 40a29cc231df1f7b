#!/bin/sh
# Builds a TensorRT engine of onnx/model.onnx. It takes 1 to 32 rows at once of 1 to 32 tokens, and is fastest
# at the sizes of --optShapes. Engines run only on the kind of GPU, and with the version of TensorRT, that built them.
set -eu
exec trtexec \
  --onnx=/srv/models/my-model-baked/onnx/model.onnx \
  --saveEngine=my-model-baked.plan \
  --minShapes=input_ids:1x1,attention_mask:1x1,token_type_ids:1x1 \
  --optShapes=input_ids:8x32,attention_mask:8x32,token_type_ids:8x32 \
  --maxShapes=input_ids:32x32,attention_mask:32x32,token_type_ids:32x32
