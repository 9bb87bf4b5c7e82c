"""Faults that are planted on purpose, to show that the checks catch them and say where they are."""

# Released variants that between them have all that sets these models apart, by what the table calls them. Weights of
# the last three amplify rounding, as training may make them: by sharp attention, or by channels that stand out.
MODELS = {
    "ViT": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, SwiGLU": "dinov3_vits16plus_pretrain_lvd1689m",
    "ViT, no bias": "dinov3_vit7b16_pretrain_lvd1689m",
    "ConvNeXt": "dinov3_convnext_tiny_pretrain_lvd1689m",
    "ViT, sharp": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, sharper": "dinov3_vits16_pretrain_lvd1689m",
    "ViT, outliers": "dinov3_vits16_pretrain_lvd1689m",
}
