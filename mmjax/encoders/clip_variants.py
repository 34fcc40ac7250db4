"""CLIP's image tower beside a BERT with a head: Chinese-CLIP and AltCLIP."""

import dataclasses

from mmjax.encoders.bert_heads import BERT_WITH_HEAD, altclip_config
from mmjax.encoders.clip import CLIP_IMAGE, altclip_vision_config

CHINESE_CLIP_TEXT = dataclasses.replace(BERT_WITH_HEAD, name="chinese_clip")
CHINESE_CLIP_IMAGE = dataclasses.replace(CLIP_IMAGE, name="chinese_clip")
CHINESE_CLIP = CHINESE_CLIP_TEXT, CHINESE_CLIP_IMAGE
ALTCLIP_TEXT = dataclasses.replace(BERT_WITH_HEAD, name="altclip", config=altclip_config)
ALTCLIP_IMAGE = dataclasses.replace(CLIP_IMAGE, name="altclip", config=altclip_vision_config)
ALTCLIP = ALTCLIP_TEXT, ALTCLIP_IMAGE
