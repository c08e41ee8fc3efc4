/** What the user can do something about; its message says what was expected and what was found. */
export class Problem extends Error {}
