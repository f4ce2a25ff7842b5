"""Draw the README's picture: one filmed episode of each task of a run, six moments each.

Run: python studies/rollouts.py runs/demo docs/images/rollouts.png
"""

import sys
from pathlib import Path

from PIL import Image

from pizero.diagnose.filmstrip import strip


def main(run: Path, output: Path) -> None:
    strips = [strip(video, height=120) for video in sorted((run / "evaluation" / "videos").glob("*-000.mp4"))]
    picture = Image.new("RGB", (max(row.width for row in strips), sum(row.height for row in strips)))
    for place, row in enumerate(strips):
        picture.paste(row, (0, place * row.height))
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output, optimize=True)
    print(f"{output}: {picture.width}×{picture.height}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
