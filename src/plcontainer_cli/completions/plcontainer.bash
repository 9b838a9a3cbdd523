# bash completion of plcontainer: the program itself knows what may come next
_plcontainer_completion() {
    local kind value
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *= ]] && compopt -o nospace
                ;;
        esac
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _PLCONTAINER_COMPLETE=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F _plcontainer_completion plcontainer
