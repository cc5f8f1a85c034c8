"""The interface of a pergola model: its signatures and tensor names.

serving_default  image: string (N,), encoded JPEG, PNG, WebP, BMP or GIF
                 -> probabilities float32 (N, C), label string (N,), probability float32 (N,),
                    and decision string (N,) where the model has costs: the answer of the
                    lowest expected cost, which may be "ask a person"
tensor           image: uint8 (N, H, W, C), any H and W
                 -> the same
embedding        image: string (N,), encoded
                 -> embedding float32 (N, D)
saliency         image: string (N,), encoded; in models with feature maps
                 -> saliency float32 (N, h, w), 0 to 1: where the likeliest class was seen, on the image
                    as the network gets it (Grad-CAM)
labels           index: int64 (N,), 0 to C - 1
                 -> label string (N,), max_pixels int64 (N,): an image with more pixels than that is refused
                    by its header (the same number N times; missing in models from before it was recorded)

Encoded images are decoded as pergola's client prepares them (serving/wire/images.py), or refused with
INVALID_ARGUMENT: never decoded otherwise.
"""

SERVING_DEFAULT = "serving_default"
TENSOR = "tensor"
EMBEDDING = "embedding"
SALIENCY = "saliency"
LABELS = "labels"

IMAGE = "image"
INDEX = "index"

PROBABILITIES = "probabilities"
LABEL = "label"
PROBABILITY = "probability"
DECISION = "decision"
MAX_PIXELS = "max_pixels"

GRPC_PORT = 8500
REST_PORT = 8501
TOKEN_VARIABLE = "PERGOLA_SERVER_TOKEN"  # in the environment of servers and clients
