-- retry: stalled -> available
-- hold: absent, scheduled, stalled, finished -> waiting
-- park: available -> waiting
-- release: waiting -> available
-- with: limits, lines
-- flags: allow-oom
-- args: (id, 16 digits that name this request)*
-- replies: the row's code; or {why, state}

local answers = {}
for at, id in ipairs(T.items(3, 2)) do
  local answer = T.ask_once(id, 'retry', ARGV[2 * at + 2])
  if not answer then
    local job = T.jobs[id]
    T.touch(id)
    T.start_anew(job)
    job[REQUEST] = ARGV[2 * at + 2]
    if job[EXPIRES] ~= '' and tonumber(job[EXPIRES]) <= T.now then job[EXPIRES] = '' end
    T.admit(id, 'retry', '')
    answer = EDGES.retry.code
  end
  answers[at] = answer
end
T.release_freed()
return answers
