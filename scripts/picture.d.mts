/** The recording of a session → the SVG of a terminal that shows it. The first line is the window's title. */
export declare function draw(recording: string): string;
