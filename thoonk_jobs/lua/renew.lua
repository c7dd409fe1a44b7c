-- flags: allow-oom
-- args: (id, token, lease in ms)*
-- replies: 0; or {why, state}

local answers = {}
for at, id in ipairs(items(3, 3)) do
  local job = JOBS[id]
  if not job or job[STATE] == ABSENT then
    answers[at] = {'absent', ABSENT}
  elseif job[TOKEN] ~= tonumber(ARGV[3 * at + 1]) then
    answers[at] = {'stale', job[STATE]}
  elseif job[STATE] ~= CLAIMED then
    answers[at] = {'refused', job[STATE]}
  else
    touch(id)
    job[UNTIL] = NOW + ARGV[3 * at + 2]
    answers[at] = 0
  end
end
commit()
return answers
