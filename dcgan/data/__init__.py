"""From pictures anywhere to whole batches: sources, decoding, packing, drawn faces, the loader. Needs no Paddle."""
