-- flags: allow-oom
-- args: (id, token, lease in ms)*
-- replies: 0; or {why, state}

local answers = {}
for at, id in ipairs(T.items(3, 3)) do
  local answer = T.ask_holder(id, ARGV[3 * at + 1])
  if not answer then
    T.touch(id)
    T.jobs[id][UNTIL] = T.now + ARGV[3 * at + 2]
    answer = 0
  end
  answers[at] = answer
end
T.commit()
return answers
