"""Image decoding, embeddings, keypoints and crop matching."""
