"""The words of the scene world: classes and their models, colours, settings, grounds, second objects and styles."""

_S, _K, _Z, _B = "Scopia/scopia/", "KatorLegaz/katorlegaz/", "BlendSwap-CC-0/blendswap-cc-0/", "BlendSwap-CC-BY/blendswap-cc-by/"

# class word -> catalogue keys (pack/model.obj); the word is what captions say, models are never named in captions
CLASSES: dict[str, tuple[str, ...]] = {
    "teddy bear": (_Z + "teddyBear/teddyBear.obj",),
    "dog": (_S + "dog/dog.obj", _B + "bulldog/bulldog.obj"),
    "cat": (_S + "cat/cat.obj", _B + "siameseCat/siameseCat.obj"),
    "rabbit": (_S + "rabbit/rabbit.obj",),
    "horse": (_Z + "horse2/horse2.obj", _B + "horse/horse.obj"),
    "chicken": (_Z + "chicken/chicken.obj",),
    "snowman": (_B + "bonecoDeNeve/bonecoDeNeve.obj",),
    "car": (_S + "seat_leon/seat_leon.obj", _K + "VW-new-beetle/VW-new-beetle.obj", _S + "renault-scenic/renault-scenic.obj"),
    "bus": (_S + "bus/bus.obj", _S + "cityBus/cityBus.obj"),
    "truck": (_S + "truck/truck.obj",),
    "motorcycle": (_S + "yamaha-yzr-r6/yamaha-yzr-r6.obj", _K + "scooter/scooter.obj", _S + "scooter2/scooter2.obj"),
    "chair": (_B + "cafe_set_mota_chair/cafe_set_mota_chair.obj", _B + "chair3/chair3.obj", _B + "ella_chair_f/ella_chair_f.obj"),
    "sofa": (_K + "mid-century-sofa/mid-century-sofa.obj", _S + "clear_sofa/clear_sofa.obj", _S + "leather_sofa/leather_sofa.obj"),
    "lamp": (_B + "lamp/lamp.obj", _S + "little_lamp2/little_lamp2.obj"),
    "plant": (_S + "maceta/maceta.obj", _Z + "plant/plant.obj"),
    "vase of flowers": (_B + "tulips/tulips.obj", _Z + "orchids/orchids.obj"),
    "christmas tree": (_S + "christmas_tree/christmas_tree.obj",),
    "cake": (_S + "birthday_cake/birthday_cake.obj", _Z + "cupcake/cupcake.obj"),
    "hamburger": (_B + "hamburger/hamburger.obj",),
    "piano": (_Z + "pianoAQueue/pianoAQueue.obj", _B + "piano/piano.obj"),
}

# second objects: word -> catalogue key
EXTRAS: dict[str, str] = {
    "basketball": _Z + "basketball/basketball.obj",
    "soccer ball": _B + "ballonFoot/ballonFoot.obj",
    "gift": _B + "gift/gift.obj",
    "plant": _S + "maceta/maceta.obj",
    "teddy bear": _Z + "teddyBear/teddyBear.obj",
    "rabbit": _S + "rabbit/rabbit.obj",
}

# linear RGB reflectances of the paints
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.62, 0.03, 0.03),
    "blue": (0.03, 0.08, 0.50),
    "green": (0.04, 0.32, 0.06),
    "yellow": (0.75, 0.55, 0.03),
    "white": (0.80, 0.80, 0.80),
    "black": (0.025, 0.025, 0.025),
}
RECOLOURABLE = ("car", "chair", "sofa")

SETTINGS: dict[str, str] = {
    "park": "in a sunny park",
    "forest": "in the forest",
    "city": "in the city",
    "sunset": "at sunset",
    "apartment": "in an apartment",
    "lobby": "in a lobby",
    "night": "at night",
    "studio": "in a studio",
}
GROUNDS: dict[str, str] = {
    "grass": "on grass",
    "sand": "on sand",
    "snow": "on snow",
    "wood": "on a wooden floor",
    "tiles": "on a tiled floor",
    "asphalt": "on asphalt",
    "carpet": "on a red carpet",
    "brick": "on a brick floor",
}
# which grounds a setting may have: no snow in a lobby
GROUNDS_OF: dict[str, tuple[str, ...]] = {
    "park": ("grass", "sand", "snow", "asphalt", "brick"),
    "forest": ("grass", "sand", "snow"),
    "city": ("asphalt", "tiles", "brick", "grass"),
    "sunset": ("sand", "grass", "asphalt", "snow"),
    "apartment": ("wood", "carpet", "tiles"),
    "lobby": ("tiles", "wood", "carpet"),
    "night": ("asphalt", "grass", "snow", "brick"),
    "studio": ("wood", "carpet", "tiles", "brick"),
}
STYLES: dict[str, str] = {
    "photo": "a photo of",
    "pencil sketch": "a pencil sketch of",
    "cartoon": "a cartoon of",
    "oil painting": "an oil painting of",
    "sepia": "a sepia photo of",
}
