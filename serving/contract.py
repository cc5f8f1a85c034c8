"""What a pergola model promises to whoever calls it: signatures and tensor names.

serving_default  image: string (N,), encoded JPEG, PNG, WebP, BMP or GIF
                 -> probabilities float32 (N, C), label string (N,), probability float32 (N,)
tensor           image: uint8 (N, H, W, C), any H and W
                 -> the same three
embedding        image: string (N,), encoded
                 -> embedding float32 (N, D)
labels           index: int64 (N,), 0 to C - 1
                 -> label string (N,)
"""

SERVING_DEFAULT = "serving_default"
TENSOR = "tensor"
EMBEDDING = "embedding"
LABELS = "labels"

IMAGE = "image"
INDEX = "index"

PROBABILITIES = "probabilities"
LABEL = "label"
PROBABILITY = "probability"

GRPC_PORT = 8500
REST_PORT = 8501
