"""Which material of a recolourable model takes the paint: the one with the largest share of the object's pixels over four views."""

from .vocabulary import CLASSES

PAINTED_MATERIAL = dict(
    zip(
        CLASSES["car"] + CLASSES["chair"] + CLASSES["sofa"],
        ("chapa_roja", "PAINT_yellow", "color-beige-green", "Paint", "silla-verde", "None", "TEXTILE_generic", "skin", "dark_leather"),
        strict=True,
    )
)
