/** Variables the start script sets aside because Node or the loader would act on them (agent/deploy/agent-container.ts). */
const SET_ASIDE = ['NODE_OPTIONS', 'LD_PRELOAD', 'PATH'];

/** The container's variables as the swapped program would have had them, the agent's own traces removed. */
export function podEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [name, value] of Object.entries(environment)) {
    if (value !== undefined && !name.startsWith('LPK_')) result[name] = value;
  }
  for (const name of SET_ASIDE) {
    const kept = environment[`LPK_${name}`];
    if (kept !== undefined) result[name] = kept;
  }
  return result;
}
