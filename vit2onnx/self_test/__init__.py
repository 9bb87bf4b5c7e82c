"""Faults that are planted on purpose, to show that the checks catch them and say where they are."""

# Released variants that between them have all that sets these models apart, by what the table calls them. The last is a
# ViT whose attention is sharp, which amplifies rounding, so that limits grow.
MODELS = {
    "ViT": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, SwiGLU": "dinov3_vits16plus_pretrain_lvd1689m",
    "ViT, no bias": "dinov3_vit7b16_pretrain_lvd1689m",
    "ConvNeXt": "dinov3_convnext_tiny_pretrain_lvd1689m",
    "ViT, sharp": "dinov3_vits16_pretrain_lvd1689m",
}
# By what queries and keys of a model are multiplied.
SHARPENED = {"ViT, sharp": 4.0}
