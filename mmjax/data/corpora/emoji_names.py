"""What emoji groups and subgroups are called: Unicode CLDR's and emojibase's own names of groups.

Subgroups have no names but their English ids in either; the Chinese ones are written here.
"""

from collections.abc import Mapping, Sequence

from mmjax.data.corpora.label_names import by_language

GROUPS: Mapping[str, Mapping[str, str]] = by_language(
    """
smileys-emotion: smileys and emotion | 笑脸与情感 | Smileys und Gefühle | 顔と感情
people-body: people and body | 人物与身体 | Menschen und Körper | 人と体
animals-nature: animals and nature | 动物与自然 | Tiere und Natur | 動物と自然
food-drink: food and drink | 食物与饮料 | Essen und Trinken | 食べ物と飲み物
travel-places: travel and places | 旅行与地点 | Reisen und Orte | 旅行と場所
activities: activities | 活动 | Aktivitäten | アクティビティ
objects: objects | 物品 | Gegenstände | 物
symbols: symbols | 符号 | Symbole | 記号
flags: flags | 旗帜 | Flaggen | 旗
component: component | 组件 | Bestandteile | 部品
"""
)

_ZH = """
face-smiling 微笑的脸 | face-affection 表示喜爱的脸 | face-tongue 吐舌头的脸 | face-hand 带手势的脸
face-neutral-skeptical 中性或怀疑的脸 | face-sleepy 困倦的脸 | face-unwell 不舒服的脸
face-hat 戴帽子的脸 | face-glasses 戴眼镜的脸 | face-concerned 担忧的脸 | face-negative 消极的脸
face-costume 装扮的脸 | cat-face 猫脸 | monkey-face 猴脸 | heart 爱心 | emotion 情绪
hand-fingers-open 张开的手 | hand-fingers-partial 伸出几根手指的手
hand-single-finger 伸出一根手指的手
hand-fingers-closed 握拳的手 | hands 双手 | hand-prop 拿东西的手 | body-parts 身体部位 | person 人
person-gesture 人的手势 | person-role 职业人物 | person-fantasy 奇幻人物 | person-activity 人的活动
person-sport 运动的人 | person-resting 休息的人 | family 家庭 | person-symbol 人形符号
skin-tone 肤色 | hair-style 发型 | animal-mammal 哺乳动物 | animal-bird 鸟类
animal-amphibian 两栖动物 | animal-reptile 爬行动物 | animal-marine 海洋动物 | animal-bug 昆虫
plant-flower 花 | plant-other 植物 | food-fruit 水果 | food-vegetable 蔬菜 | food-prepared 熟食
food-asian 亚洲食物 | food-sweet 甜食 | drink 饮料 | dishware 餐具 | place-map 地图
place-geographic 地理景观 | place-building 建筑 | place-religious 宗教场所 | place-other 其他地点
transport-ground 陆地交通工具 | transport-water 水上交通工具 | transport-air 空中交通工具
hotel 酒店 | time 时间
sky-weather 天空与天气 | event 节日活动 | award-medal 奖牌 | sport 体育运动 | game 游戏
arts-crafts 艺术与手工 | clothing 服装 | sound 声音 | music 音乐 | musical-instrument 乐器
phone 电话 | computer 电脑 | light-video 灯光与影像 | book-paper 书与纸 | money 钱 | mail 邮件
writing 书写工具 | office 办公用品 | lock 锁 | tool 工具 | science 科学 | medical 医疗
household 家居用品 | other-object 其他物品 | transport-sign 交通标志 | warning 警告标志 | arrow 箭头
religion 宗教符号 | zodiac 星座 | av-symbol 播放符号 | gender 性别符号 | math 数学符号
punctuation 标点符号 | currency 货币符号 | other-symbol 其他符号 | keycap 键帽 | alphanum 字母与数字
geometric 几何图形 | flag 旗 | country-flag 国旗 | subdivision-flag 地区旗
"""
SUBGROUPS_ZH: Mapping[str, str] = {
    name: called
    for line in _ZH.strip().splitlines()
    for name, called in (entry.split() for entry in line.split(" | "))
}


def names_of(
    label: str, labels: Sequence[str], languages: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Label -> language -> its name, where it has one.

    Args:
      label: "group" or "subgroup".
      labels: labels of the items.
      languages: which names are wanted in.
    """
    if label == "group":
        return {group: dict(names) for group, names in GROUPS.items()}
    names: dict[str, dict[str, str]] = {}
    for subgroup in labels:
        every = {"en": subgroup.replace("-", " "), "zh": SUBGROUPS_ZH.get(subgroup, "")}
        names[subgroup] = {lang: every[lang] for lang in languages if every.get(lang)}
    return names
