/** What the start script puts before the names it sets aside (agent/deploy/agent-container.ts). */
const SET_ASIDE = 'LPK_SAVED_';

/**
 * The container's variables as the swapped program would have had them: those that Node or the loader would have acted on
 * were set aside as `LPK_SAVED_NAME` and get their names back.
 */
export function podEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  const result: Record<string, string> = {};
  const asideFirst = Object.entries(environment).sort(
    ([a], [b]) => Number(b.startsWith(SET_ASIDE)) - Number(a.startsWith(SET_ASIDE)),
  );
  for (const [name, value] of asideFirst) {
    if (value === undefined) continue;
    const own = name.startsWith(SET_ASIDE) ? name.slice(SET_ASIDE.length) : name;
    result[own] ??= value;
  }
  return result;
}
