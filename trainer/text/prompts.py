"""The fixed prompts of a text-to-image model's sample grids: grids of two runs can be compared."""

GRID_COLUMNS = 8

#: Training captions, then held-out combinations, then new combinations of known words.
PROMPTS = (
    *("grinning face", "red heart", "pizza", "rocket", "dog face", "rose", "soccer ball", "house"),
    *("green apple", "sunflower", "cat with tears of joy", "snowman", "umbrella", "automobile", "guitar", "crown"),
    *("flag: France", "flag: Japan", "flag: Brazil", "flag: Ireland", "keycap: 4", "star", "fire", "hamburger"),
    *("woman astronaut", "man cook", "firefighter: dark skin tone", "mermaid", "santa claus", "person in bed"),
    *("thumbs up", "waving hand"),
    *("pregnant man: medium skin tone", "thumbs up: medium skin tone", "woman shrugging: dark skin tone"),
    *("man judge: medium-dark skin tone", "cook: light skin tone", "man raising hand: dark skin tone"),
    *("woman: medium-light skin tone, red hair", "man: medium skin tone"),
    *("a blue apple", "green heart", "purple dog", "a cat with a crown", "black car", "yellow house"),
    *("pink rose with a heart", "a robot and a rainbow"),
)
