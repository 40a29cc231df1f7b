"""The optimize verb: the ONNX Runtime transformer optimizer run, watched and proven; float16; standard operators only."""
