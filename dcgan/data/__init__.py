"""From images anywhere to whole batches: sources, decoding, packing, synthetic faces, the loader. Needs no Paddle."""
